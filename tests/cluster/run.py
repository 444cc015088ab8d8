"""The chain on a real SLURM of two nodes: `python -m tests.cluster.run`, which `make test-cluster` calls.

A small chain is carried out on this machine, and once more as SLURM's jobs. Midway, when a run is in training on each
node, the training process on one node is killed, and so is the daemon of the other node, for good. The chain has to
finish by itself, with the same runs, tables and figure as on this machine.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.compare import assert_same_results
from tests.cluster.slurm import NODES, Cluster, Missing, install

ROOT = Path(__file__).parents[2]
# Two groups of two seeds, five tables, one figure.
CHAIN = ("preset=quick", "datasets=synthetic", "figures=fig1", "seeds=2", "num_tasks=5")
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--quiet", "rules", "host", "--set-threads", "train=1", "study=1")
SLURM = (
    "--profile", "profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "5", "--set-resources", "train:mem_mb=1000", "study:mem_mb=1000",
    "figure:mem_mb=1000",
)  # fmt: skip


def command(results: Path, iterations: int, *options: str) -> list[str]:
    """The chain into `results`."""
    return [*SNAKEMAKE, *options, "--config", *CHAIN, f"iterations={iterations}", f"results={results}"]


def training(results: Path, run: str) -> list[int]:
    """The processes that train the group of a run, whichever daemon started them."""
    group = run.replace("-s0-", "-")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended
        if words[1:5] == ["-m", "chain", "train", group] and str(results) in words:
            found.append(int(path.parent.name))
    return found


def nodes_of(results: Path) -> dict[str, str]:
    """The node that each group is in training on, by the run that is its first seed."""
    found = {}
    for config in sorted((results / "runs").glob("*-s0-*/config.json")):
        if (config.parent / "run.json").exists():
            continue
        for process in training(results, config.parent.name):
            try:
                variables = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended
            names = [text.partition("=")[2] for text in variables if text.startswith("SLURMD_NODENAME=")]
            found[config.parent.name] = names[0] if names else ""
    return found


def disturb(cluster: Cluster, results: Path, chain: subprocess.Popen[bytes]) -> None:
    """Wait until a run is in training on each node; kill one of them, and the other node's daemon.

    Raises:
        AssertionError: if the chain ended, or came to no such moment.
    """
    end = time.monotonic() + 1200
    while set((at := nodes_of(results)).values()) != set(NODES):
        assert chain.poll() is None, "the chain ended before a run was in training on each node"
        assert time.monotonic() < end, f"no run in training on each node after 20 minutes, but {at}"
        time.sleep(0.2)
    first, second = at
    for process in training(results, first):
        os.kill(process, signal.SIGKILL)
    cluster.kill_node(at[second])
    print(
        f"killed: the training of {first} on {at[first]}, and the daemon of {at[second]}, which trains {second}",
        flush=True,
    )


def main() -> int:
    """Run the test; the exit code is 0 if it passed, 1 if not, 2 if something that it needs is missing."""
    try:
        install()
        with tempfile.TemporaryDirectory(prefix="adaptlens-cluster-") as folder:
            return _compare(Path(folder))
    except Missing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _compare(folder: Path, iterations: int = 6000) -> int:
    started = time.monotonic()
    local, remote = folder / "local", folder / "cluster"
    subprocess.run(command(local, iterations, "--cores", "2"), cwd=ROOT, check=True)
    print(f"on this machine: {time.monotonic() - started:.0f} seconds", flush=True)
    with Cluster() as cluster:
        started = time.monotonic()
        chain = subprocess.Popen(command(remote, iterations, *SLURM), cwd=ROOT)
        try:
            disturb(cluster, remote, chain)
            code = chain.wait(timeout=3600)
        finally:
            if chain.poll() is None:
                chain.kill()
                chain.wait()
        assert code == 0, f"the chain on the cluster ended with exit code {code}"
        down = [node for node, state in cluster.states().items() if state.startswith("down")]
        assert len(down) == 1, f"one node should be down at the end, but the nodes are {cluster.states()}"
        print(f"on SLURM, with a job and node {down[0]} lost: {time.monotonic() - started:.0f} seconds", flush=True)
    num_tables = assert_same_results(local, remote)
    print(f"{num_tables} tables, the runs behind them and the figure are equal to those made on this machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
