// SPDX-License-Identifier: Apache-2.0
// The words of `-o`, as `imagefs mount` and mount(8) take them, and what goes together. Pure.
#pragma once

#include <string>
#include <string_view>

#include "cmd/cli.h"

namespace imagefs {

// The words of `imagefs mount -o`, separated by commas, applied to a mount; the last one of a kind
// counts. A quoted value may have commas. Words that fstab has for others are passed over, among
// them `defaults`, which does not ask for `suid` and `dev` here. Returns "", or what is wrong with
// them.
std::string ApplyMountOptions(std::string_view words, MountArgs* mount);

// The same of mount(8), which says "rw" whenever nobody said "ro": `rw` means nothing, and
// `writable` is the word. Where store and sockets are is among its words, too. With `sloppy`
// unknown words are passed over.
std::string ApplyMount8Options(std::string_view words, bool sloppy, MountArgs* mount,
                               GlobalOptions* global);

// "", or what of a mount does not go together.
std::string CheckMount(const MountArgs& mount);

}  // namespace imagefs
