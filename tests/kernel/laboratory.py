"""Run a command under a private Linux kernel: Debian's User Mode Linux, an ordinary process without privileges.

Its root file system is this machine's own, so that the command sees the same interpreters, the same working directory
and the same environment, as root; /run, /dev, /proc, /sys and the network are private.  ``script/kernel COMMAND``
does the same by hand.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BOOT_ALLOWANCE = 40
"""Seconds for boot and shutdown, beside the command's own."""

MODULES = (
    *("ipv6", "xfrm_user", "af_key", "esp4", "esp6", "ah4", "ah6", "ipcomp", "ipcomp6", "sctp", "sctp_diag"),
    *("veth", "bridge", "dummy", "tun", "ip_vti", "ip6_vti", "sch_netem", "overlay", "af_packet"),
    *("gcm", "ccm", "ctr", "cbc", "chacha20poly1305", "authenc", "authencesn", "echainiv", "seqiv", "deflate"),
    *("sha1_generic", "sha256_generic", "sha512_generic", "hmac", "aes_generic", "ghash-generic", "cmac", "xcbc"),
)
"""Loaded where they are there; anything else is loaded by the kernel when it is asked for."""

NEEDS = {"linux.uml": "user-mode-linux", "modprobe": "kmod", "ip": "iproute2", "tc": "iproute2"}
"""Programs, and the Debian packages that bring them."""

COMPILER = {"cc": "gcc"}
"""Needed as well where the processor's registers are too many for the kernel (wide_registers.c)."""

WIDE_REGISTERS = Path(__file__).with_name("wide_registers.c")
MODULES_DIRECTORY = Path("/usr/lib/uml/modules")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PRIVATE = re.compile(r"/(run|dev|proc|sys)(/|$)")

_INIT = r"""#!/bin/sh
# The private kernel's first process.
export PATH=@PATH@
finish() { sync; echo o > /proc/sysrq-trigger; while :; do sleep 1; done; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /run/lock /run/user /run/netns
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for pair in fd: stdin:/0 stdout:/1 stderr:/2; do ln -sf "/proc/self/fd${pair#*:}" "/dev/${pair%%:*}"; done
release=$(uname -r)
mkdir -p /run/kernel/lib/modules
ln -s "@MODULES_DIRECTORY@/$release" "/run/kernel/lib/modules/$release"
printf '#!/bin/sh\nexec modprobe -d /run/kernel "$@"\n' > /run/kernel/modprobe
chmod 755 /run/kernel/modprobe
echo /run/kernel/modprobe > /proc/sys/kernel/modprobe
modprobe -d /run/kernel -a @MODULES@ 2> /dev/null
ip link set lo up
cd @CWD@ || finish
timeout --kill-after=5 @TIMEOUT@ @STATE@/command < /dev/null > @STATE@/stdout 2> @STATE@/stderr
echo $? > @STATE@/status
finish
"""


class LaboratoryError(Exception):
    """The kernel did not come up, or went down without a result."""


class MissingPackages(LaboratoryError):
    """Debian packages that the laboratory needs are not installed; the text says how to get them."""

    def __init__(self, packages: Sequence[str]) -> None:
        super().__init__(f"no real kernel for the tests: apt-get install {' '.join(packages)}")
        self.packages = tuple(packages)


@dataclass(frozen=True)
class Result:
    """What the command left; ``status`` is its exit status, 124 where it ran past its time."""

    status: int
    stdout: str
    stderr: str


def missing_packages() -> list[str]:
    """The Debian packages that are needed and not here."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    needs = {**NEEDS, **(COMPILER if has_wide_registers() else {})}
    missing = {package for program, package in needs.items() if shutil.which(program, path=path) is None}
    if not list(MODULES_DIRECTORY.glob("*/modules.dep.bin")):
        missing.add("user-mode-linux")
    return sorted(missing)


def has_wide_registers() -> bool:
    """Whether this processor has AMX, which User Mode Linux 6.1 can't cope with by itself."""
    return " amx_tile" in _text(Path("/proc/cpuinfo"))


def run(
    command: Sequence[str],
    *,
    timeout: int = 120,
    megabytes: int = 512,
    environment: Mapping[str, str] = {},
) -> Result:
    """Run a command, in the caller's working directory and environment (and ``environment``), to its end.

    Raises MissingPackages and LaboratoryError.
    """
    missing = missing_packages()
    if missing:
        raise MissingPackages(missing)
    if _PRIVATE.match(str(Path.cwd())):
        raise LaboratoryError("the working directory is on a file system that the kernel does not share")
    place = Path(tempfile.gettempdir()).resolve()
    if _PRIVATE.match(str(place)):
        place = Path("/tmp")
    with tempfile.TemporaryDirectory(prefix="cxtp-kernel-", dir=place) as state:
        _write_files(Path(state), command, timeout, environment)
        return _boot(Path(state), timeout, megabytes)


def _write_files(state: Path, command: Sequence[str], timeout: int, environment: Mapping[str, str]) -> None:
    values = {
        "PATH": SYSTEM_PATH,
        "MODULES_DIRECTORY": str(MODULES_DIRECTORY),
        "MODULES": " ".join(MODULES),
        "STATE": shlex.quote(str(state)),
        "CWD": shlex.quote(str(Path.cwd())),
        "TIMEOUT": str(timeout),
    }
    init = re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], _INIT)
    variables = {**os.environ, "CXTP_KERNEL": "1", "MODPROBE_OPTIONS": "-d /run/kernel", **environment}
    words = ["exec", "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *command]
    for name, text in (("init", init), ("command", "#!/bin/sh\n" + shlex.join(words) + "\n")):
        path = state / name
        path.write_text(text, errors="surrogateescape")
        path.chmod(0o700)


def _boot(state: Path, timeout: int, megabytes: int) -> Result:
    variables = {name: value for name, value in os.environ.items() if name not in ("TMP", "TEMP", "TMPDIR")}
    variables["TMPDIR"] = _memory_directory(megabytes << 20)
    if has_wide_registers():
        variables["LD_PRELOAD"] = str(_compile(WIDE_REGISTERS, state / "wide_registers.so"))
    kernel = shutil.which("linux.uml", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    with (state / "console").open("wb") as console:
        process = subprocess.Popen(
            [
                str(kernel), f"mem={megabytes}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet",
                "panic=1", f"init={state}/init", f"uml_dir={state}/", "umid=kernel", "con=null", "con0=null,fd:1",
                "ssl=null",
            ],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=variables, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout + BOOT_ALLOWANCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _stop(process)
    texts = {name: _text(state / name) for name in ("status", "stdout", "stderr", "console")}
    if not texts["status"].strip():
        raise LaboratoryError(
            "the kernel ended without a result; the command said:\n"
            f"{texts['stdout'][-2000:]}{texts['stderr'][-2000:]}\nand the console:\n{texts['console'][-2000:]}"
        )
    return Result(int(texts["status"]), texts["stdout"], texts["stderr"])


def _compile(source: Path, library: Path) -> Path:
    done = subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise LaboratoryError(f"{source.name} could not be compiled:\n{done.stderr}")
    return library


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _memory_directory(octets: int) -> str:
    """Where the kernel's memory file may lie: with room for it, and not mounted noexec."""
    for place in ("/dev/shm", os.environ.get("TMPDIR") or "/tmp", "/var/tmp"):
        try:
            status = os.statvfs(place)
        except OSError:
            continue
        usable = os.access(place, os.W_OK) and not status.f_flag & os.ST_NOEXEC
        if usable and status.f_bavail * status.f_frsize >= octets:
            return place
    raise LaboratoryError(f"no place for {octets >> 20} MiB of the kernel's memory in /dev/shm, $TMPDIR or /var/tmp")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The kernel, and every process of its own that it runs as one of ours."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="kernel", description=__doc__)
    parser.add_argument("--timeout", type=int, default=120, help="seconds (default %(default)s)")
    parser.add_argument("--memory", type=int, default=512, help="MiB (default %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("a command is wanted")
    try:
        result = run(command, timeout=arguments.timeout, megabytes=arguments.memory)
    except LaboratoryError as error:
        print(f"kernel: {error}", file=sys.stderr)
        return 125
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
