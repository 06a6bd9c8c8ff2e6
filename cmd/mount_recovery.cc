// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_recovery.h"

#include <pthread.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/thread_role.h"
#include "base/ticket_group.h"

namespace imagefs {

// Methods whose names end in OnThread run on the thread only. Single-flight tasks post their
// results to it.
class MountRecovery::State : public std::enable_shared_from_this<State> {
 public:
  explicit State(Deps deps) : deps_(std::move(deps)) {}

  // Returns false if no mount is waiting.
  bool Collect() ABSL_LOCKS_EXCLUDED(mu_);
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);
  bool busy() const ABSL_LOCKS_EXCLUDED(mu_);
  void LoopOnThread() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    Moment next;  // next attempt
    absl::Duration pause;
    std::string why;  // the last error
  };
  using Task = absl::AnyInvocable<void()>;

  // A damaged record has no reference.
  static bool Waits(const MountState& state) {
    return !state.mounted() && !state.record.unmounted && !state.record.reference.empty();
  }
  std::optional<MountRecord> Find(const std::string& directory) const;
  void TryOnThread(const std::string& directory) ABSL_LOCKS_EXCLUDED(mu_);
  void MountOnThread(const MountRecord& record, const ChainRef& chain);
  void EndOnThread(const std::string& directory, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Post(Task task) ABSL_LOCKS_EXCLUDED(mu_);
  std::string DueLocked(Moment now, Moment* next) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Deps deps_;
  mutable absl::Mutex mu_;
  TimedCondition changed_;
  std::map<std::string, Waiting> waiting_ ABSL_GUARDED_BY(mu_);  // by directory
  std::map<std::string, std::shared_ptr<TicketGroup>> running_ ABSL_GUARDED_BY(mu_);
  int flights_ ABSL_GUARDED_BY(mu_) = 0;  // running tasks that have not called Post yet
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

bool MountRecovery::State::Collect() {
  const std::vector<MountState> states = deps_.mounts.List();
  absl::MutexLock lock(&mu_);
  for (const MountState& state : states) {
    if (!Waits(state)) continue;
    waiting_[state.record.directory] = {Moment::InfinitePast(), deps_.first_pause,
                                        state.not_mounted};
  }
  return !waiting_.empty();
}

void MountRecovery::State::Stop() {
  std::map<std::string, std::shared_ptr<TicketGroup>> running;
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    running = running_;
  }
  for (const auto& [directory, group] : running) TicketGroup::TicketOf(group).Leave();
  changed_.SignalAll();
}

bool MountRecovery::State::busy() const {
  absl::MutexLock lock(&mu_);
  return !running_.empty();
}

// Returns the directory to try now; if "", `next` is when one is due.
std::string MountRecovery::State::DueLocked(Moment now, Moment* next) const {
  *next = Moment::InfiniteFuture();
  for (const auto& [directory, waiting] : waiting_) {
    if (running_.contains(directory)) continue;
    if (waiting.next <= now) return directory;
    *next = std::min(*next, waiting.next);
  }
  return "";
}

void MountRecovery::State::LoopOnThread() {
  EnterThread(ThreadRole::kRecovery);
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mu_);
      while (tasks_.empty()) {
        if (flights_ == 0 && (stopped_ || waiting_.empty())) return;
        Moment next = Moment::InfiniteFuture();
        if (!stopped_) {
          const std::string directory = DueLocked(Moment::Now(), &next);
          if (!directory.empty()) {
            running_[directory] = std::make_shared<TicketGroup>();
            tasks_.push_back([this, directory] { TryOnThread(directory); });
            break;
          }
        }
        changed_.WaitUntil(&mu_, next);
      }
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

std::optional<MountRecord> MountRecovery::State::Find(const std::string& directory) const {
  for (MountState& state : deps_.mounts.List()) {
    if (state.record.directory == directory && Waits(state)) return std::move(state.record);
  }
  return std::nullopt;
}

void MountRecovery::State::TryOnThread(const std::string& directory) {
  const std::optional<MountRecord> record = Find(directory);
  if (!record.has_value()) return EndOnThread(directory, absl::OkStatus());
  std::shared_ptr<TicketGroup> group;
  {
    absl::MutexLock lock(&mu_);
    ++flights_;
    group = running_[directory];
  }
  auto done = [self = shared_from_this(), record = *record](absl::StatusOr<ChainRef> chain) {
    self->Post([self = self.get(), record, chain = std::move(chain)] {
      if (!chain.ok()) return self->EndOnThread(record.directory, chain.status());
      self->MountOnThread(record, *chain);
    });
  };
  group->Add(deps_.uses.FetchAgain(*record, deps_.trust_of, std::move(done)));
}

void MountRecovery::State::MountOnThread(const MountRecord& record, const ChainRef& chain) {
  {
    absl::MutexLock lock(&mu_);
    if (stopped_) return;
  }
  const absl::Status status = deps_.mounts.MountAgain(record.directory, chain).status();
  if (status.ok()) {
    LogInfo("mounted_again directory=", record.directory);
    deps_.uses.AttachSources(record.reference, record.options, chain);
  }
  EndOnThread(record.directory, status);
}

void MountRecovery::State::EndOnThread(const std::string& directory, const absl::Status& status) {
  bool changed = false;
  {
    absl::MutexLock lock(&mu_);
    running_.erase(directory);
    if (status.ok()) {
      waiting_.erase(directory);
    } else if (!stopped_) {
      Waiting& waiting = waiting_[directory];
      changed = std::exchange(waiting.why, std::string(status.message())) != status.message();
      waiting.next = Moment::Now() + waiting.pause;
      waiting.pause = std::min(2 * waiting.pause, deps_.longest_pause);
    }
    if (stopped_) return;
  }
  if (!status.ok()) deps_.mounts.SetNotMounted(directory, std::string(status.message()));
  // Log each cause once.
  if (changed) {
    LogWarning("mount_not_recovered directory=", directory, " error=", status.message());
  }
  changed_.SignalAll();
}

void MountRecovery::State::Post(Task task) {
  {
    absl::MutexLock lock(&mu_);
    --flights_;
    tasks_.push_back(std::move(task));
  }
  changed_.SignalAll();
}

MountRecovery::MountRecovery(Deps deps) : state_(std::make_shared<State>(std::move(deps))) {}

MountRecovery::~MountRecovery() {
  state_->Stop();
  if (thread_.joinable()) thread_.join();
}

void MountRecovery::Start() {
  if (!state_->Collect()) return;
  thread_ = std::thread([state = state_] { state->LoopOnThread(); });
}

bool MountRecovery::busy() const { return state_->busy(); }

}  // namespace imagefs
