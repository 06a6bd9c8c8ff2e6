// Enforces that latency-critical threads do not block. The network thread, the fill scheduler, the
// timers and the FUSE workers must never wait for the disk or the database, or compute for long
// (docs/threading.md): one slow disk would hold up every reader. Such a thread calls NeverBlockHere
// when it starts; a scope that holds a lock which these threads take uses NeverBlocks; and code
// that may block calls MayBlock.
//
// If IMAGEFS_CHECK_THREADS is set (as tests do), a violation aborts the process. Otherwise the
// check costs one load.
#pragma once

namespace imagefs {
namespace internal {
inline thread_local const char* never_blocks = nullptr;
[[gnu::cold]] void OnMayBlock(const char* what, const char* who);
}  // namespace internal

// Declares that this thread must not block from now on. `who` is a literal that names the thread in
// the message.
inline void NeverBlockHere(const char* who) { internal::never_blocks = who; }

// Declares the same for a scope. Place it next to the MutexLock of a lock that such threads take.
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

// Declares that the following code waits for the disk (open, sync, remove, database access) or
// computes for more than a millisecond. Reading and writing the bytes of an open file do not count.
inline void MayBlock(const char* what) {
  if (internal::never_blocks != nullptr) internal::OnMayBlock(what, internal::never_blocks);
}

}  // namespace imagefs
