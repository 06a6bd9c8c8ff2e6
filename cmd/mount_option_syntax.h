// SPDX-License-Identifier: Apache-2.0
// The options of `-o`, as `imagefs mount` and mount(8) accept them, and which ones conflict. Pure.
#pragma once

#include <string>
#include <string_view>

#include "cmd/cli.h"

namespace imagefs {

// Applies the comma-separated options of `imagefs mount -o` to a mount; the last one of a kind
// wins. A quoted value may contain commas. fstab options that are meant for other programs are
// ignored, among them `defaults`, which does not imply `suid` and `dev` here. Returns "" or an
// error message.
std::string ApplyMountOptions(std::string_view words, MountArgs* mount);

// The same for mount(8), which passes "rw" whenever "ro" was not given: `rw` is ignored, and
// `writable` makes a mount writable. The options may also name the store and the run directory. If
// `sloppy`, unknown options are ignored.
std::string ApplyMount8Options(std::string_view words, bool sloppy, MountArgs* mount,
                               GlobalOptions* global);

// Returns "" or which settings of the mount conflict.
std::string CheckMount(const MountArgs& mount);

}  // namespace imagefs
