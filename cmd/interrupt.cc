#include "cmd/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace imagefs {

struct Interrupts::State {
  absl::Mutex mu;
  std::function<void()> action ABSL_GUARDED_BY(mu);
  bool interrupted ABSL_GUARDED_BY(mu) = false;
};

Interrupts::Interrupts() : state_(std::make_shared<State>()) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // Detached: it waits for as long as the process lives and owns what it touches.
  std::thread([state = state_, signals] {
    while (true) {
      int signal = 0;
      if (sigwait(&signals, &signal) != 0) continue;
      absl::MutexLock lock(&state->mu);
      // A second one does not wait for the orderly way.
      if (state->interrupted || !state->action) _exit(kInterruptedExit);
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
