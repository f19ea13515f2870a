"""A real SLURM on this machine alone, for tests, started without systemd.

`python tests/support/helpers/slurm_node.py FOLDER` (as root, on Debian) installs it if needed,
leaves it running and prints the configuration's path, for SLURM_CONF; FOLDER keeps its files. The
same with `--stop` ends it.
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = """\
ClusterName=flowcpc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=01:00:00 State=UP
"""


def run(*words: str) -> str:
    """Run a command and return what it printed; raises where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def install() -> None:
    """Install Debian's packages where they are absent."""
    if shutil.which("sbatch") and shutil.which("slurmctld") and shutil.which("munged"):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(
            "SLURM is not installed, and installing it takes root: apt-get install slurm-wlm munge"
        )
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update")
    run("apt-get", "install", "--yes", "--no-install-recommends", "slurm-wlm", "munge")


def start(folder: Path) -> Path:
    """Start munged, slurmctld and slurmd with files in `folder`; return the configuration."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    configuration = folder / "slurm.conf"
    host = platform.node().partition(".")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
    words = {"host": host, "folder": folder, "cores": os.cpu_count(), "memory": memory}
    configuration.write_text(CONFIGURATION.format(**words))
    os.environ["SLURM_CONF"] = str(configuration)
    if subprocess.run(["munge", "--no-input"], capture_output=True, check=False).returncode:
        run("install", "--directory", "--owner=munge", "--group=munge", "--mode=755", "/run/munge")
        run("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged")
    run("slurmctld", "-f", str(configuration))
    run("slurmd", "-f", str(configuration))
    for _ in range(100):
        if (
            "idle"
            in subprocess.run(
                ["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True
            ).stdout
        ):
            return configuration
        time.sleep(0.3)
    sys.exit(f"SLURM did not come up; read {folder}/slurmctld.log and slurmd.log")


def stop(folder: Path) -> None:
    """End the daemons that were started with files in `folder`."""
    for name in ("slurmd", "slurmctld"):
        file = folder / f"{name}.pid"
        if file.exists():
            os.kill(int(file.read_text()), signal.SIGTERM)


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    if "--stop" in sys.argv:
        stop(place)
    else:
        install()
        print(start(place))
