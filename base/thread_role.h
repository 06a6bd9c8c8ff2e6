// SPDX-License-Identifier: Apache-2.0
// The threads of this program, and which of them must not block.
//
// Every thread says what it is when it starts. The network thread, the fill scheduler, the timers
// and the FUSE workers never wait for the disk, the database or another thread, and compute nothing
// that takes long: one slow disk would hold up every reader. A scope that holds a lock which these
// threads take uses NeverBlocks, and code that may block calls MayBlock.
//
// If IMAGEFS_CHECK_THREADS is set (as tests do), a violation aborts the process. Otherwise the
// check costs one load.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace imagefs {

enum class ThreadRole : uint8_t {
  kMain,
  kControl,
  kRecovery,
  kMounts,
  kSessions,
  kFuse,
  kNetwork,
  kAnswers,
  kCredentials,
  kProviders,
  kVerifiers,
  kStore,
  kLayer,
  kPass,
  kUnpack,
  kChain,
  kSync,
  kWatch,
  kScrub,
  kFill,
  kProve,
  kScheduler,
  kTimers,
  kIndex,
  kSpanTables,
  kSpanTablesNow,
  kImages,
  kSnapshots,
  kSnapshotSpace,
  kContent,
  kPodman,
  kPodmanLayers,
  kTicker,
  kHttp,
  kLog,
  kBrief,
  kTest,
};

// The row of docs/threading.md for a role.
struct ThreadRoleInfo {
  std::string_view name;       // of the thread; at most 15 characters
  std::string_view count;      // how many there are
  bool never_blocks;           // MayBlock aborts in tests
  std::string_view may_block;  // what it may block on
  std::string_view never;      // what it never waits for
};
const ThreadRoleInfo& InfoOf(ThreadRole role);
// The table of docs/threading.md; a test holds the document to it.
std::string ThreadTable();

// Call first on every thread: names it, and holds it to its role from now on.
void EnterThread(ThreadRole role);

namespace internal {
inline thread_local const char* never_blocks = nullptr;
[[gnu::cold]] void OnMayBlock(const char* what, const char* who);
}  // namespace internal

// Declares that a scope must not block. Place it next to the MutexLock of a lock that threads take
// which never block. `who` is a literal that names the scope in the message.
class NeverBlocks {
 public:
  explicit NeverBlocks(const char* who) : before_(internal::never_blocks) {
    internal::never_blocks = who;
  }
  NeverBlocks(const NeverBlocks&) = delete;
  NeverBlocks& operator=(const NeverBlocks&) = delete;
  ~NeverBlocks() { internal::never_blocks = before_; }

 private:
  const char* const before_;
};

// Declares that the following code waits for the disk (open, sync, remove, database access) or for
// another thread, or computes for more than a millisecond. Reading and writing the bytes of an open
// file do not count.
inline void MayBlock(const char* what) {
  if (internal::never_blocks != nullptr) internal::OnMayBlock(what, internal::never_blocks);
}

}  // namespace imagefs
