// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and SIGTERM for the command: what is running is cancelled in an orderly way, and when
// nothing is, the process ends with 130 at once. Thread-safe.
#pragma once

#include <signal.h>

#include <chrono>
#include <functional>
#include <memory>

namespace imagefs {

inline constexpr int kInterruptedExit = 130;

class Interrupts {
 public:
  // Blocks the signals in this thread and those it starts later, and waits for them on one of its
  // own. At most one object a process.
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While it lives, an interrupt runs `action` (on another thread, at most once; at once when the
  // interrupt came before) in place of ending the process. Scopes do not nest.
  class Scope {
   public:
    Scope(Interrupts& interrupts, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupts& interrupts_;
  };
  // Where it lives longer than `after`, runs `action` once, on another thread: nobody waits for
  // long without a word. Costs two system calls. Reminders do not nest.
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
  // The interrupt was answered by what it asked for: calls that follow are not cancelled by it.
  void Forget();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// The signals that Daemon::Serve waits for.
sigset_t DaemonSignals();
// Blocks them. Before the first thread is started.
void BlockDaemonSignals();

}  // namespace imagefs
