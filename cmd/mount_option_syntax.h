// The words of `-o`, as `imagefs mount` and mount(8) take them, and what goes together. Pure.
#pragma once

#include <string>
#include <string_view>

#include "cmd/cli.h"

namespace imagefs {

// Who hands the words over.
enum class MountOptionSyntax {
  kCommand,  // imagefs mount -o
  kMount8,   // mount(8): it says "rw" whenever nobody said "ro", so that `rw` means nothing and
             // `writable` is the word; and where store and sockets are has to be among the words
};

// Applies the words, separated by commas, to the mount that `command` describes; the last one of a
// kind counts. A quoted value may have commas. Words that fstab has for others are passed over, and
// with `sloppy` unknown ones; among them `defaults`, which does not ask for `suid` and `dev` here.
// Returns "", or what is wrong with them.
std::string ApplyMountOptions(std::string_view words, MountOptionSyntax of, bool sloppy,
                              Command* command);

// "", or what of a mount does not go together.
std::string CheckMount(const Command& command);

}  // namespace imagefs
