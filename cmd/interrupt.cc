// SPDX-License-Identifier: Apache-2.0
#include "cmd/interrupt.h"

#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/failure.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

void SetTimer(std::chrono::milliseconds after) {
  itimerval timer{};
  timer.it_value.tv_sec = static_cast<time_t>(after.count() / 1000);
  timer.it_value.tv_usec = static_cast<suseconds_t>(after.count() % 1000 * 1000);
  setitimer(ITIMER_REAL, &timer, nullptr);
}

}  // namespace

struct Interrupts::State {
  absl::Mutex mu;
  std::function<void()> action ABSL_GUARDED_BY(mu);
  std::function<void()> reminder ABSL_GUARDED_BY(mu);
  bool interrupted ABSL_GUARDED_BY(mu) = false;
};

Interrupts::Interrupts() : state_(std::make_shared<State>()) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  sigaddset(&signals, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // Detached: it runs until the process exits and shares ownership of its state.
  std::thread([state = state_, signals] {
    EnterThread(ThreadRole::kBrief);
    while (true) {
      int signal = 0;
      if (sigwait(&signals, &signal) != 0) continue;
      absl::MutexLock lock(&state->mu);
      if (signal == SIGALRM) {
        if (state->reminder) std::exchange(state->reminder, nullptr)();
        continue;
      }
      // A second interrupt does not wait for an orderly end.
      if (state->interrupted || !state->action) _exit(ExitStatusOf(FailureKind::kInterrupted));
      state->interrupted = true;
      state->action();
    }
  }).detach();
}

bool Interrupts::interrupted() const {
  absl::MutexLock lock(&state_->mu);
  return state_->interrupted;
}

void Interrupts::Forget() {
  absl::MutexLock lock(&state_->mu);
  state_->interrupted = false;
}

Interrupts::Scope::Scope(Interrupts& interrupts, std::function<void()> action)
    : interrupts_(interrupts) {
  absl::MutexLock lock(&interrupts_.state_->mu);
  if (interrupts_.state_->interrupted) action();
  interrupts_.state_->action = std::move(action);
}

Interrupts::Scope::~Scope() {
  absl::MutexLock lock(&interrupts_.state_->mu);
  interrupts_.state_->action = nullptr;
}

Interrupts::Reminder::Reminder(Interrupts& interrupts, std::chrono::milliseconds after,
                               std::function<void()> action)
    : interrupts_(interrupts) {
  {
    absl::MutexLock lock(&interrupts_.state_->mu);
    interrupts_.state_->reminder = std::move(action);
  }
  SetTimer(after);
}

Interrupts::Reminder::~Reminder() {
  SetTimer(std::chrono::milliseconds(0));
  absl::MutexLock lock(&interrupts_.state_->mu);
  interrupts_.state_->reminder = nullptr;
}

sigset_t DaemonSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

void BlockDaemonSignals() {
  const sigset_t signals = DaemonSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

}  // namespace imagefs
