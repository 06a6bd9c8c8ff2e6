// SPDX-License-Identifier: Apache-2.0
#include "cmd/interrupt.h"

#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/failure.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

const int kTimeoutSignal = SIGRTMIN;

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
  std::function<int()> end ABSL_GUARDED_BY(mu);
  bool interrupted ABSL_GUARDED_BY(mu) = false;
  bool expired ABSL_GUARDED_BY(mu) = false;
  std::optional<timer_t> timeout;  // used by the owner's thread only
};

Interrupts::Interrupts() : state_(std::make_shared<State>()) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  sigaddset(&signals, SIGALRM);
  sigaddset(&signals, kTimeoutSignal);
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
      if (signal == kTimeoutSignal) {
        if (state->interrupted || !state->end) continue;
        state->expired = true;
        if (!state->action) _exit(state->end());
        state->interrupted = true;
        state->action();
        continue;
      }
      // A second interrupt does not wait for an orderly end.
      if (state->interrupted || !state->action) _exit(ExitStatusOf(FailureKind::kInterrupted));
      state->interrupted = true;
      state->action();
    }
  }).detach();
}

void Interrupts::StopAfter(std::chrono::seconds timeout, std::function<int()> end) {
  {
    absl::MutexLock lock(&state_->mu);
    state_->end = std::move(end);
  }
  if (!state_->timeout.has_value()) {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = kTimeoutSignal;
    timer_t timer{};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return;
    state_->timeout = timer;
  }
  itimerspec when{};
  when.it_value.tv_sec = timeout.count();
  timer_settime(*state_->timeout, 0, &when, nullptr);
}

bool Interrupts::expired() const {
  absl::MutexLock lock(&state_->mu);
  return state_->expired;
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
