// SPDX-License-Identifier: Apache-2.0
// The texts of `imagefs help VERB` for the verbs that run programs of an image. See
// cmd/verb_help.h.
#pragma once

namespace imagefs {

inline constexpr char kRunHelp[] =
    "Runs the image's command, or the one given, with the image's environment, working directory "
    "and\n"
    "user, over a writable overlay that is discarded at the end. Options go before REF; what "
    "follows it\n"
    "belongs to the command. Network and control groups are those of the caller, and it stays in "
    "the\n"
    "foreground: this is no container engine. The exit status is that of the program, 128+N if "
    "signal N\n"
    "ended it, 125 if it could not be started, 126 if it cannot be executed, 127 if it does not "
    "exist.\n"
    "\n"
    "  imagefs run debian:12 cat /etc/os-release\n"
    "  imagefs run --bind .:/work --workdir /work python:3.12 python test.py\n"
    "  imagefs run --keep ./changes debian:12 apt-get install -y make\n"
    "  tar c . | imagefs run alpine:3 tar t\n";

inline constexpr char kShellHelp[] =
    "Runs the shell of the image: $SHELL of its environment, /bin/bash or /bin/sh. See imagefs "
    "help run.\n"
    "\n"
    "  imagefs shell debian:12\n"
    "  imagefs shell --user nobody --bind /srv/data:/data:ro debian:12\n";

inline constexpr char kBundleHelp[] =
    "Makes a bundle for runc or crun: DIR/config.json, and the image mounted on DIR/rootfs, as "
    "root\n"
    "writable. To end it: imagefs umount DIR/rootfs.\n"
    "\n"
    "  imagefs bundle debian:12 /tmp/b && runc run -b /tmp/b one\n"
    "  imagefs bundle debian:12 /tmp/b sleep 100         another command\n";

}  // namespace imagefs
