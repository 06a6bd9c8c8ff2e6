#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long until a program of a warm image prints its first line: `imagefs run` as root and as a user, chroot in the
mounted image, `runc run` of a bundle, and `podman run` of the same image, in turns.

  bench/run_start.py [ROUNDS] [--imagefs PROGRAM]   needs root; podman and runc are left out if they are not installed

The image has programs of this machine. Times are milliseconds, from the start of the command to its first line.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, SOURCE + "/tests/lib")
import oci

USER = 65534


def first_line(command, **options):
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **options)
    line = process.stdout.readline()
    took = (time.monotonic() - begin) * 1000
    process.communicate()
    if line != b"ready\n" or process.returncode != 0:
        raise SystemExit(f"run_start: {command}: {line!r}, status {process.returncode}")
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", nargs="?", type=int, default=20)
    parser.add_argument("--imagefs", default=SOURCE + "/build/release/imagefs")
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix="imagefs-bench.")
    os.chmod(work, 0o755)
    layer = oci.host_tar(["sh", "echo"])
    for name in ("proc", "sys", "dev", "etc", "tmp"):
        layer.dir(name)
    oci.simple_image(work + "/image", [layer])
    subprocess.run(["chmod", "-R", "a+rX", work], check=True)
    ref = f"oci:{work}/image"
    program = ["sh", "-c", "echo ready"]
    home = work + "/user"
    os.mkdir(home)
    os.chown(home, USER, USER)
    os.mkdir(work + "/m")
    own = [args.imagefs, "--root", work + "/root", "--run", work + "/run"]
    theirs = [args.imagefs, "--root", home + "/root", "--run", home + "/run"]
    as_user = {"user": USER, "group": USER, "extra_groups": [], "env": {"PATH": os.environ["PATH"], "HOME": home}}
    arms = {"chroot": lambda: first_line(["chroot", work + "/m", "/bin/sh", "-c", "echo ready"]),
            "imagefs run": lambda: first_line([*own, "run", "-q", ref, *program]),
            "imagefs run, user": lambda: first_line([*theirs, "run", "-q", ref, *program], **as_user)}
    podman = ["podman", "--root", work + "/podman", "--runroot", work + "/podman-run", "--storage-driver", "overlay",
              "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", work + "/podman-tmp", "--runtime", "runc"]
    count = iter(range(1_000_000))
    try:
        subprocess.run([*own, "mount", "-q", ref, work + "/m"], check=True, stdout=subprocess.DEVNULL)
        if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
            del arms["imagefs run, user"]
        if shutil.which("runc"):
            subprocess.run([*own, "bundle", "-q", ref, work + "/bundle", *program], check=True, stdout=subprocess.DEVNULL)
            arms["runc run, bundle"] = lambda: first_line(
                ["runc", "--root", work + "/runc", "run", "--bundle", work + "/bundle", f"bench{next(count)}"])
        if shutil.which("podman"):
            pulled = subprocess.run([*podman, "pull", "-q", ref], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            arms["podman run"] = lambda: first_line(
                [*podman, "run", "--rm", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", pulled, *program])
        times = {name: [] for name in arms}
        for arm in arms.values():
            arm()  # warm
        for _ in range(args.rounds):
            for name, arm in arms.items():
                times[name].append(arm())
        base = statistics.median(times["chroot"])
        print(f"load {' '.join(map(str, os.getloadavg()))}, {os.cpu_count()} processors, {args.rounds} rounds")
        for name, values in times.items():
            middle = statistics.median(values)
            print(f"{name:20} median {middle:7.1f} ms   best {min(values):7.1f}   above chroot {middle - base:7.1f}")
    finally:
        subprocess.run([*own, "stop", "--unmount"], check=False)
        subprocess.run([*theirs, "stop", "--unmount"], check=False, **as_user)
        subprocess.run(["umount", "-l", work + "/m", work + "/bundle/rootfs"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", work + "/podman/overlay"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", work], check=False)


main()
