"""Train on a real SLURM of two nodes, both of them this machine, and compare with torchrun's two processes.

    apt-get install slurmctld slurmd slurm-client munge
    python benchmarks/engine_matrix/on_slurm.py        # as root; it writes results/slurm.json

The starts are those of docs/engines.md: a task per process (`examples/engines/slurm.sh`, as it is), a task per node,
and tasks that cannot find each other. Nothing is installed by this, and the daemons end with it; `/etc/hosts` must
give the nodes' names an address, which is added where it is missing.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import yaml

from training import BOTH, fresh_folder, keys_for, start


ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results" / "slurm.json"
NODES = {"n1": 17001, "n2": 17002}
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
PartitionName=p Nodes=ALL Default=YES State=UP
"""
PER_NODE = """#!/bin/bash
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29611
srun bash -c 'NNODES=$SLURM_NNODES NODE_RANK=$SLURM_NODEID motiontune train "$@"' motiontune "$@"
"""
ALONE = '#!/bin/bash\nsrun motiontune train "$@"\n'


def begin(folder: Path) -> list[subprocess.Popen[bytes]]:
    """Start munge, the controller and a daemon for each node."""
    lines = CONFIGURATION.format(host=socket.gethostname(), folder=folder)
    for node, port in NODES.items():
        lines += f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"
        (folder / node).mkdir()
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(lines)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    hosts = Path("/etc/hosts")
    if missing := [node for node in NODES if node not in hosts.read_text().split()]:
        hosts.write_text(hosts.read_text() + f"127.0.0.1 {' '.join(missing)}\n")
    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        os.makedirs("/run/munge", exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    daemons = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
    while subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, text=True).stdout != "2\n":
        if any(daemon.poll() is not None for daemon in daemons):
            sys.exit(f"a daemon has ended, see the logs in {folder}")
        time.sleep(0.5)
    return daemons


def submit(script: Path, folder: Path, *words: str) -> tuple[int, str]:
    """Run a job on both nodes to its end: its exit code, and what it printed."""
    log = folder / f"{script.stem}.txt"
    command = [
        "sbatch",
        "--wait",
        "--parsable",
        "-N2",
        "--ntasks-per-node=1",
        "--gpus-per-node=0",
        "-c1",
        "-o",
        str(log),
    ]
    code = subprocess.run([*command, str(script), *words], stdout=subprocess.DEVNULL).returncode
    return code, log.read_text()


def losses(output: Path) -> list[float]:
    """The logged losses of a run."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def main() -> None:
    """Run all starts, and write what came out."""
    start()
    keys = keys_for(**BOTH, max_steps=4, per_device_train_batch_size=1, use_cpu=True)
    config = fresh_folder().with_suffix(".yaml")
    del keys["output_dir"]
    config.write_text(
        yaml.safe_dump({key: str(value) if isinstance(value, Path) else value for key, value in keys.items()})
    )
    os.environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    result: dict[str, object] = {"version": version, "nodes": len(NODES)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torchrun = {**os.environ, "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
        subprocess.run(["motiontune", "train", config, f"output_dir={folder}/torchrun"], env=torchrun, check=True)
        result["torchrun"] = losses(folder / "torchrun")
        for script, text in (("per_node", PER_NODE), ("alone", ALONE)):
            (folder / f"{script}.sh").write_text(text)
        daemons = begin(folder)
        try:
            for script in (ROOT / "examples/engines/slurm.sh", folder / "per_node.sh"):
                code, said = submit(script, folder, str(config), f"output_dir={folder}/{script.stem}")
                result[script.stem] = losses(folder / script.stem) if code == 0 else said.splitlines()[-1]
            code, said = submit(folder / "alone.sh", folder, str(config), f"output_dir={folder}/alone")
            line = next(line for line in said.splitlines() if line.startswith("motiontune: "))
            result["alone"] = {"exit code": code, "message": line, "folder": (folder / "alone").exists()}
        finally:
            for daemon in daemons[::-1]:
                daemon.terminate()
                daemon.wait()
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
