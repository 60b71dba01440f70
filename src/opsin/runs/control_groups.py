"""Control groups of this process, by which containers and schedulers limit its cores and its memory."""

from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIPS = Path("/proc/self/cgroup")


def own_groups(root: Path, memberships: Path) -> list[Path]:
    """Return the folders of the control group of this process and of all its parents: the limits of all apply.

    Args:
        root: Folder of the control groups, version 2.
        memberships: File that names the control group of this process.
    """
    try:
        lines = memberships.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    group = PurePosixPath(names[0] if names and ".." not in names[0] else "")
    return [root / part for part in (group, *group.parents)]
