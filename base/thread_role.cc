// SPDX-License-Identifier: Apache-2.0
#include "base/thread_role.h"

#include <pthread.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>

#include "base/text.h"

namespace imagefs {
namespace {

// In the order of ThreadRole.
constexpr ThreadRoleInfo kRoles[] = {
    {"main", "1", false, "signals, connections", ""},
    {"control", "4", false, "mount(2), umount(2), the database, files of publications",
     "the network"},
    {"recovery", "1, while a mount waits", false, "mount(2), the mount records, credential plugins",
     "the network: single-flights post their results to it"},
    {"mounts", "1", false, "poll of mountinfo, umount(2), the mount records",
     "requests of the kernel"},
    {"sessions", "1", false,
     "forgetting FUSE sessions that have ended: the database, a round trip to imagefs-holder", ""},
    {"fuse", "2 x processors, 2 to 16", true, "pread of local bytes",
     "the network, single-flights, decompression, another thread, opening a file"},
    {"network", "1 (curl multi)", true, "poll, pwrite of a blob's bytes",
     "opening and syncing files, the database, hashes of documents, decompression"},
    {"answers", "4", false,
     "what follows a registry's document: its hash, the database, opening files, looking for a "
     "layer",
     "the network, another executor's queue"},
    {"credentials", "2, from the first use; 1 with index.publish", false,
     "credential helpers and plugins; what there is of an image to publish", "a read that waits"},
    {"providers", "4", false, "the kubelet's credential provider plugins", ""},
    {"verifiers", "4, if configured", false, "image verifiers: programs of the administrator", ""},
    {"store", "1", false, "the database: profiles, layers proven under another name",
     "whatever waits for the network"},
    {"layer", "processors + 2", false, "short work: looking for a layer, writing a found index",
     "bytes of a blob, another executor's queue"},
    {"pass", "4 x (processors + 2)", false,
     "unpacking and writing a layer, bytes of its blob, spans that `fill` decodes for it; places "
     "are shared among sources (`cache/source_turns.h`)",
     "any other executor's queue"},
    {"unpack", "2 or 3 a layer that is unpacked", false,
     "reading and decompressing its blob, hashing it and its tar", ""},
    {"chain", "processors", false, "merging the layers of an image, its record", "the network"},
    {"sync", "1", false,
     "syncs of layers, their records; writing and reading a layer again after a failed sync",
     "requests of readers"},
    {"watch", "2", false, "inotify, of layers and of merged indexes",
     "anything else: it queues checks"},
    {"scrub", "1, idle priority", false, "reading whole layers at a limited rate", ""},
    {"fill", "processors", false, "decoding and writing spans", "the network, readers, a pass"},
    {"prove", "3 x processors", false,
     "the check of a whole layer; places are shared among sources. A third of them at nice 10: "
     "hashing tars of layers that can be read already",
     "the network, readers"},
    {"scheduler", "1", true, "the next request to make", "anything else: it picks requests"},
    {"timers", "1", true, "the next timer",
     "anything else: it ends reads at their deadlines and wakes what waits between two requests"},
    {"index", "2", false, "opening, unpacking and checking found indexes", "the network"},
    {"span-tables", "2, SCHED_IDLE", false,
     "making span tables: one at a time, and another of another source", ""},
    {"span-tables-now", "2", false, "the same for callers that wait", ""},
    {"images", "8", false,
     "credential helpers and plugins on behalf of runtimes, the records of what they hold",
     "the network: single-flights go on elsewhere"},
    {"snapshots", "8", false, "containerd's snapshots: directories, mounts, the database", ""},
    {"snap-space", "2", false, "counting and removing the directories of snapshots", ""},
    {"content", "1", false, "containerd's answers, reading blobs for its content store",
     "requests of readers"},
    {"podman", "1", false, "the mount table, the database", ""},
    {"podman-layers", "1", false, "the same; mounts one layer after another",
     "the images that it waits for"},
    {"ticker", "1", false, "the next tick",
     "whatever blocks: it collects progress for commands that wait"},
    {"http", "1, if it is configured", false, "statvfs(2), files below /proc, the mount table",
     "the network, the database"},
    {"log", "1", false, "stderr", ""},
    {"brief", "0 or more", false, "one system call, mount or connection, then it ends", ""},
    {"test", "", false, "", ""},
};

// gRPC has threads of its own.
constexpr std::string_view kForeign =
    "| gRPC's | gRPC's choice | mount(2), the database | a FUSE worker's answer to a mount whose "
    "key "
    "it holds, beyond what the kernel itself asks |\n";

}  // namespace

const ThreadRoleInfo& InfoOf(ThreadRole role) { return kRoles[static_cast<size_t>(role)]; }

std::string ThreadTable() {
  std::string out = "| thread | count | may block on | never on |\n|---|---|---|---|\n";
  for (const ThreadRoleInfo& role : kRoles) {
    if (&role == &InfoOf(ThreadRole::kTest)) continue;
    StrAppend(&out, "| `", role.name, "`", role.never_blocks ? " (never blocks)" : "", " | ",
              role.count, " | ", role.may_block, " | ", role.never, " |\n");
  }
  StrAppend(&out, kForeign);
  return out;
}

void EnterThread(ThreadRole role) {
  const ThreadRoleInfo& info = InfoOf(role);
  // A view of a literal, which ends with a zero.
  pthread_setname_np(pthread_self(), info.name.data());
  internal::never_blocks = info.never_blocks ? info.name.data() : nullptr;
}

void internal::OnMayBlock(const char* what, const char* who) {
  static const bool checked = std::getenv("IMAGEFS_CHECK_THREADS") != nullptr;
  if (!checked) return;
  const std::string line = StrCat("FATAL: ", what, ", where ", who, " may not block\n");
  (void)!write(STDERR_FILENO, line.data(), line.size());
  abort();
}

}  // namespace imagefs
