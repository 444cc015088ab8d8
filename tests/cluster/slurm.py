"""A SLURM of two nodes on this one machine, for as long as a test needs it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NODES = ("n1", "n2")
PORTS = (17001, 17002)
PACKAGES = ("slurm-wlm", "munge")
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONF = Path("/etc/slurm/slurm.conf")
STATE = Path("/var/lib/adaptlens-slurm")
MARK = "# Made by adaptlens' `make test-cluster`, which may replace it."


class Missing(Exception):
    """What the test needs is not here, told in one sentence."""


def install() -> None:
    """Install SLURM and munge if they are not there.

    Raises:
        Missing: if that takes rights or tools that are not here.
    """
    if os.geteuid() != 0:
        raise Missing("make test-cluster starts SLURM's daemons, which takes root")
    if all(shutil.which(tool) for tool in TOOLS):
        return
    if not shutil.which("apt-get"):
        raise Missing(f"SLURM is not installed, and there is no apt-get: install {' and '.join(PACKAGES)} by hand")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")


def configuration(host: str, cpus: int, memory: int) -> str:
    """slurm.conf: two nodes of `cpus` cores and `memory` MB on `host`, no accounting, a dead node noticed soon."""
    return f"""{MARK}
ClusterName=adaptlens
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=15
StateSaveLocation={STATE}/controller
SlurmdSpoolDir={STATE}/%n
SlurmctldPidFile={STATE}/slurmctld.pid
SlurmdPidFile={STATE}/slurmd-%n.pid
SlurmctldLogFile={STATE}/slurmctld.log
SlurmdLogFile={STATE}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
SchedulerParameters=sched_interval=2,batch_sched_delay=0
{
        chr(10).join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory}"
            for node, port in zip(NODES, PORTS, strict=True)
        )
    }
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """The daemons: started by `with`, ended when the block is left."""

    def __init__(self, cpus: int = 1) -> None:
        self.cpus = cpus
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        if CONF.exists() and not CONF.read_text(encoding="utf-8").startswith(MARK):
            raise Missing(f"{CONF} is of a SLURM of this machine's own, and is not replaced")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        shutil.rmtree(STATE, ignore_errors=True)
        for folder in (CONF.parent, STATE / "controller", *(STATE / node for node in NODES)):
            folder.mkdir(parents=True, exist_ok=True)
        CONF.write_text(configuration(socket.gethostname().split(".")[0], self.cpus, memory), encoding="utf-8")
        try:
            self._start_munge()
            self._start("slurmctld", ["slurmctld", "-D", "-c", "-f", str(CONF)])
            for node in NODES:
                self.start_node(node)
            self._wait(lambda: self.states() == dict.fromkeys(NODES, "idle"), "both nodes to be idle", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if "slurmctld" in self.processes:
            subprocess.run(["scancel", "--user", "root"], capture_output=True)
            time.sleep(1)
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        CONF.unlink(missing_ok=True)

    def _start(self, name: str, command: list[str], user: str | None = None) -> None:
        log = (STATE / f"{name}.out").open("wb")
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, user=user)

    def _start_munge(self) -> None:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return  # this machine's own runs already
        key, run = Path("/etc/munge/munge.key"), Path("/run/munge")
        if not key.exists():
            key.write_bytes(os.urandom(128))
            shutil.chown(key, "munge", "munge")
            key.chmod(0o600)
        run.mkdir(parents=True, exist_ok=True)
        for folder in (run, Path("/var/log/munge"), Path("/var/lib/munge")):
            shutil.chown(folder, "munge", "munge")
        self._start("munged", ["munged", "--foreground", "--force"], user="munge")
        self._wait(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, "munge", 10)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start(node, ["slurmd", "-D", "-N", node, "-f", str(CONF)])

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon; what runs there is left to itself."""
        process = self.processes.pop(node)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def states(self) -> dict[str, str]:
        """Each node's state, such as idle, mixed, allocated or down*."""
        told = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %T"], capture_output=True, text=True).stdout
        return dict(line.split() for line in told.splitlines())

    def _wait(self, is_so: object, what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_so():  # type: ignore[operator]
            if time.monotonic() > end:
                logs = "\n".join(
                    f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(STATE.glob("*.out"))
                )
                raise Missing(f"waited {seconds:.0f} seconds for {what}; nodes are {self.states()}\n{logs}")
            time.sleep(0.5)
