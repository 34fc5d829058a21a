"""What knows LLaMA-Factory. Importing it checks that the installed version has what is relied on."""

import warnings

from motiontune.llamafactory.names import check_names


# of jieba, with which LLaMA-Factory scores text: nothing that a user of either could do
warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API", UserWarning, r"jieba\._compat")
check_names()
