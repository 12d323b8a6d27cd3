"""What an emulated board boots as a whole machine: QEMU, a Debian kernel, and a disk with Python, sshd and adbd."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devices import debs, provision
from devices.disk import make_disk
from devices.initrd import FOLDER, Entry, archive, modules

REVISION = 4
"""Raised when what is made from the same packages changes."""
QEMU = "qemu-system-aarch64"
QEMU_PACKAGES = (
    "qemu-system-arm", "libaio1t64", "libatomic1", "libblkid1", "libbpf1", "libc6", "libcap2", "libcapstone5",
    "libdaxctl1", "libelf1t64", "libfdt1", "libffi8", "libfuse3-4", "libgcc-s1", "libglib2.0-0t64", "libgmp10",
    "libgnutls30t64", "libhogweed6t64", "libibverbs1", "libidn2-0", "libjpeg62-turbo", "libkmod2", "libmount1",
    "libndctl6", "libnettle8t64", "libnl-3-200", "libnl-route-3-200", "libnuma1", "libp11-kit0", "libpcre2-8-0",
    "libpixman-1-0", "libpmem1", "libpng16-16t64", "librdmacm1t64", "libsasl2-2", "libseccomp2", "libselinux1",
    "libslirp0", "libssl3t64", "libtasn1-6", "libudev1", "libunistring5", "liburing2", "libuuid1", "libvdeplug2t64",
    "libzstd1", "zlib1g",
)  # fmt: skip
"""The emulator and all it is linked to."""
GUEST_PACKAGES = (
    *provision.root_packages(), "busybox-static", "util-linux",
    "openssh-server", "libaudit1", "libcap-ng0", "libcom-err2", "libcrypt1", "libgssapi-krb5-2", "libk5crypto3",
    "libkeyutils1", "libkrb5-3", "libkrb5support0", "libpam0g", "libpcre2-8-0", "libselinux1", "libsqlite3-0",
    "libwrap0", "libwtmpdb0",
    "adbd", "mksh", "toybox", "android-libbase", "android-libboringssl", "android-libcutils", "android-liblog",
    "libbrotli1", "libcap2", "liblz4-1", "libprotobuf32t64", "libsystemd0", "libxxhash0",
)  # fmt: skip
"""Python and a system's tools; sshd and all it is linked to; adbd with the shell and the tools of Android."""
KERNEL = "cloud-arm64"
MODULES = ["virtio_blk", "virtio_net", "virtio-rng"]
DISK_MIB = 8192
"""Of the guest; the file is as large as what is in it."""

PACKAGES = "usr/lib/python3/dist-packages"
"""Where the guest's Python looks for packages."""

COMPILED = (
    "bz2", "ctypes", "dataclasses", "datetime", "difflib", "glob", "hashlib", "importlib.metadata", "inspect", "json",
    "lzma", "numbers", "pathlib", "pickle", "pkgutil", "platform", "random", "shutil", "tempfile", "threading",
    "typing", "zipfile",
)  # fmt: skip
"""What of Python's library the runtimes load, and all that this loads."""

# Of the initial RAM disk: it finds the disk, and brings what is this machine's own (/own) over to it.
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
tries=0
there() {{ [ -b /dev/vda ] && {{ [ -b /dev/vdb ] || [ ! -f /own/packages ]; }}; }}
until there || [ $tries -ge 300 ]; do /bin/busybox sleep 0.1; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 -o noatime /dev/vda /mnt
/bin/busybox mount -t tmpfs -o mode=755 run /mnt/run
/bin/busybox cp -r /own /mnt/run/own
exec /bin/busybox switch_root /mnt /usr/bin/busybox init
"""
_INITTAB = """::sysinit:/etc/start
::respawn:/etc/serve
::shutdown:/usr/bin/busybox sync
"""
_START = """#!/usr/bin/busybox sh
export PATH=/usr/bin:/usr/sbin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm /run/sshd
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs tmp /tmp
busybox chmod 1777 /tmp
busybox hostname board
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip addr add 10.0.2.15/24 dev eth0
[ ! -f /run/own/packages ] || busybox mount -t ext4 -o ro,noatime /dev/vdb /{packages}
busybox mount --bind /run/own/model /sys/firmware/devicetree/base/model
"""
# Where memory runs out, the kernel ends anything before what serves the link.
_SERVE = """#!/usr/bin/busybox sh
echo -1000 > /proc/self/oom_score_adj
export HOME=/root
if [ "$(busybox cat /run/own/link)" = adb ]; then
    export PATH=/system/bin:/usr/bin:/usr/sbin ADBD_PORT=5555 ANDROID_DATA=/data SHELL=/system/bin/sh
    exec /usr/lib/android-sdk/platform-tools/adbd
fi
exec /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config 2> /dev/console
"""
_SSHD = """HostKey /run/own/host_key
AuthorizedKeysFile /run/own/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
LoginGraceTime 0
Subsystem sftp internal-sftp
"""
_PASSWD = """root:x:0:0:root:/root:/bin/sh
sshd:x:100:65534:sshd:/run/sshd:/usr/sbin/nologin
shell:x:2000:2000:shell:/data/local/tmp:/system/bin/sh
"""
_SHADOW = "root:*:1:0:99999:7:::\nsshd:*:1:0:99999:7:::\nshell:*:1:0:99999:7:::\n"
_GROUP = "root:x:0:\nshell:x:2000:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Guest:
    """Cached files that machines boot from. tools: unpacked packages of the emulator."""

    folder: Path
    tools: Path

    @property
    def kernel(self) -> Path:
        """Linux."""
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk, to which another one with the machine's own files, in own/, is appended."""
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        """The root file system; machines write beside it, never into it."""
        return self.folder / "disk"

    @property
    def emulator(self) -> list[str]:
        """The argv that starts QEMU."""
        return provision.of_packages(self.tools, QEMU)


def guest() -> Guest:
    """Return what emulated machines boot from, making it first if it is not cached.

    Raises:
        DeviceError: this machine lacks what is needed, or the packages cannot be fetched.
        StorageError: no space for it.
    """
    architecture = provision.host_architecture()

    def unpack_emulator(folder: Path) -> None:
        with provision.messages.status("fetching QEMU for whole machines …"):
            for package in debs.obtain(QEMU_PACKAGES, architecture):
                provision.unpack(package, folder)
            shutil.rmtree(folder / "usr" / "share" / "doc", ignore_errors=True)

    # Made first: it is wanted while the guest is made, and what sets itself up here waits for whoever does.
    board = provision.board()
    tools = provision.cached("machine", [REVISION, debs.SUITE, *QEMU_PACKAGES, architecture], unpack_emulator)
    made_from = [
        REVISION,
        debs.SUITE,
        *GUEST_PACKAGES,
        KERNEL,
        *MODULES,
        *COMPILED,
        DISK_MIB,
        _INIT,
        _START,
        _SERVE,
        _SSHD,
    ]
    return Guest(provision.cached("guest", made_from, partial(_make, board)), tools)


def packages_disk(packages: Sequence[str]) -> Path:
    """Return a disk with numpy and `packages` for the guest's Python, making it first if it is not cached.

    Raises:
        DeviceError: there are no such wheels, or they cannot be fetched.
        StorageError: no space for it.
    """
    site = provision.site(provision.board(), packages)

    def make(folder: Path) -> None:
        make_disk(site, folder / "disk", DISK_MIB)

    return provision.cached("packages", [REVISION, site.name, DISK_MIB], make) / "disk"


def _make(board: provision.Board, folder: Path) -> None:
    with provision.messages.status("fetching the emulated machine: an arm64 kernel, sshd, adbd …"):
        packages = debs.obtain(GUEST_PACKAGES, "arm64")
        kernel = debs.kernel(KERNEL, "arm64")
    with provision.messages.status("making the emulated machine's disk …"):
        root = folder / "root"
        for package in packages:
            provision.unpack(package, root)
        provision.unpack(kernel, folder / "unpacked")
        shutil.move(next((folder / "unpacked" / "boot").glob("vmlinuz-*")), folder / "kernel")
        _finish(board, root)
        # A guest, which forgets what it writes, would compile them after every boot.
        loading = [str(root / "usr/bin/python3"), "-c", f"import {', '.join(COMPILED)}"]
        provision.output(board.command(root, "cortex-a53", loading))
        (folder / "initrd").write_bytes(_initrd(root, folder / "unpacked"))
        make_disk(root, folder / "disk", DISK_MIB)
        shutil.rmtree(root)
        shutil.rmtree(folder / "unpacked")


def _finish(board: provision.Board, root: Path) -> None:
    """Do what the packages' scripts would have done, and write the machine's settings."""
    for documents in ("doc", "man", "lintian", "locale"):
        shutil.rmtree(root / "usr/share" / documents, ignore_errors=True)
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "data/local/tmp", "system/bin", "etc/ssh", PACKAGES):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/python3").symlink_to(f"python{provision.PYTHON}")
    (root / "system/bin/sh").symlink_to("/usr/bin/mksh")
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/shadow").write_text(_SHADOW)
    (root / "etc/group").write_text(_GROUP)
    (root / "etc/inittab").write_text(_INITTAB)
    (root / "etc/ssh/sshd_config").write_text(_SSHD)
    for name, text in (("start", _START.format(packages=PACKAGES)), ("serve", _SERVE)):
        (root / "etc" / name).write_text(text)
        (root / "etc" / name).chmod(0o755)
    _link_tools(board, root, ["usr/bin/busybox", "--list"], root / "usr/bin")
    _link_tools(board, root, ["usr/bin/toybox"], root / "system/bin")


def _link_tools(board: provision.Board, root: Path, listing: list[str], folder: Path) -> None:
    """Link each tool that a program of many names lists to it, where no other program has its name."""
    program = str(root / listing[0])
    for tool in provision.output(board.command(root, "cortex-a53", [program, *listing[1:]])).split():
        if not (folder / tool).is_symlink() and not (folder / tool).exists():
            (folder / tool).symlink_to(f"/{listing[0]}")


def _initrd(root: Path, kernel: Path) -> bytes:
    loaded = modules(kernel / "usr" / "lib" / "modules", MODULES)
    entries = dict.fromkeys(("bin", "dev", "mnt", "modules"), FOLDER)
    entries["bin/busybox"] = Entry((root / "usr/bin/busybox").read_bytes(), 0o100755)
    entries |= {f"modules/{name}.ko": Entry(module) for name, module in loaded.items()}
    entries["init"] = Entry(_INIT.format(modules=" ".join(loaded)).encode(), 0o100755)
    return archive(entries)
