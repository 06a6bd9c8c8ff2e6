// Threads that everybody waits for, and what they may not do. The network's thread, the scheduler
// of what fills, the timers and the FUSE workers never wait for the disk or the database and
// compute nothing that takes long (docs/threading.md): one slow disk would hold up every reader.
// Such a thread says so at its beginning, a part of the code that holds a lock which they take says
// so for a while, and whatever may block asks.
//
// Tests set IMAGEFS_CHECK_THREADS: then what blocks where it may not aborts the process. Otherwise
// the question costs one load.
#pragma once

namespace imagefs {
namespace internal {
inline thread_local const char* never_blocks = nullptr;
[[gnu::cold]] void OnMayBlock(const char* what, const char* who);
}  // namespace internal

// This thread does not block from now on. `who` is a literal: it names the thread in the message.
inline void NeverBlockHere(const char* who) { internal::never_blocks = who; }

// Nor does it while this object lives. Beside the MutexLock of a lock that such threads take.
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

// What follows waits for the disk (opens, syncs, removes, asks the database), or computes for more
// than a millisecond. Not said of reads and writes of the bytes of an open file.
inline void MayBlock(const char* what) {
  if (internal::never_blocks != nullptr) internal::OnMayBlock(what, internal::never_blocks);
}

}  // namespace imagefs
