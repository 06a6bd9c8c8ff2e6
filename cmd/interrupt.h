// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and SIGTERM for the command: a running call is cancelled in an orderly way, and if nothing
// is running, the process exits with status 130 at once. Thread-safe.
#pragma once

#include <signal.h>

#include <chrono>
#include <functional>
#include <memory>

namespace imagefs {

class Interrupts {
 public:
  // Blocks the signals in this thread and in those it starts later, and waits for them on a thread
  // of its own. At most one object per process.
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While it lives, an interrupt runs `action`, at most once, instead of ending the process: on
  // another thread, or in the constructor if it has already arrived. Scopes do not nest.
  class Scope {
   public:
    Scope(Interrupts& interrupts, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupts& interrupts_;
  };
  // Runs `action` once, on another thread, if this lives longer than `after`, so that no long wait
  // is silent. Costs two system calls. Reminders do not nest.
  class Reminder {
   public:
    Reminder(Interrupts& interrupts, std::chrono::milliseconds after, std::function<void()> action);
    ~Reminder();
    Reminder(const Reminder&) = delete;
    Reminder& operator=(const Reminder&) = delete;

   private:
    Interrupts& interrupts_;
  };
  bool interrupted() const;
  // After `timeout` the same happens as at an interrupt, and expired() becomes true. If nothing is
  // running then, the process exits with the status that `end` returns, which is called on another
  // thread. A later call replaces an earlier one; 0 = never.
  void StopAfter(std::chrono::seconds timeout, std::function<int()> end);
  bool expired() const;
  // Clears the interrupt once it has been handled, so that later calls are not cancelled.
  void Forget();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// The signals that Daemon::Serve waits for.
sigset_t DaemonSignals();
// Blocks them. Call before starting the first thread.
void BlockDaemonSignals();

}  // namespace imagefs
