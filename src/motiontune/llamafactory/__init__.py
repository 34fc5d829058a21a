"""What knows LLaMA-Factory. Importing it checks that the installed version has what is relied on."""

from motiontune.llamafactory.names import check_names


check_names()
