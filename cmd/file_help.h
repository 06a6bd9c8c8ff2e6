// SPDX-License-Identifier: Apache-2.0
// The texts of `imagefs help VERB` for the verbs that read files of an image. See cmd/verb_help.h.
#pragma once

namespace imagefs {

inline constexpr char kCatHelp[] =
    "Prints files of an image, without a mount. Symbolic links are followed inside of the image. "
    "Of\n"
    "an image with a published index, only the bytes that are printed are fetched.\n"
    "\n"
    "  imagefs cat alpine:3 /etc/os-release\n";

inline constexpr char kCopyHelp[] =
    "Copies a file or a directory with all that is below it out of an image, without a mount, by "
    "the\n"
    "rules of docker cp. Kept are holes, modes, times, hard links and, as far as the caller may,\n"
    "owners, extended attributes and device nodes; what could not be kept is listed. No symbolic\n"
    "link of the image leads out of DST.\n"
    "\n"
    "  imagefs cp alpine:3:/etc/hosts .                  a file into an existing directory\n"
    "  imagefs cp alpine:3:/etc ./alpine-etc             a directory under a new name\n"
    "  imagefs cp alpine:3:/etc/. ./existing             what is in it, into a directory\n"
    "  imagefs cp alpine:3:/etc - | tar tv               a tar\n";

inline constexpr char kListFilesHelp[] =
    "Lists a path of an image and all that is below it, like find, without a mount and without "
    "the\n"
    "bytes of the files if an index is published. A symbolic link is followed if a slash is behind "
    "it.\n"
    "\n"
    "  imagefs ls-files alpine:3\n"
    "  imagefs ls-files -l --depth 1 alpine:3 /bin/\n"
    "  imagefs ls-files -0 alpine:3 | xargs -0 -n1 echo\n";

inline constexpr char kExportTreeHelp[] =
    "Writes the merged tree of an image as one tar (pax) to standard output. The same image gives "
    "the\n"
    "same bytes on every machine. A tar that was cut short has no end, and the exit status says "
    "so.\n"
    "\n"
    "  imagefs export alpine:3 > alpine.tar\n"
    "  imagefs export alpine:3 | podman import - localhost/alpine:flat\n";

inline constexpr char kDiffHelp[] =
    "Compares the trees of two images: a line for each path, A added, C changed, D deleted. Bytes "
    "are\n"
    "read only where the two files are not from the same layer. Times are not compared, unless\n"
    "--times is given, since two builds hardly ever agree on them.\n"
    "\n"
    "  imagefs diff registry.example/app:1 registry.example/app:2\n"
    "  imagefs diff --exit-code --json app:1 app:2\n";

}  // namespace imagefs
