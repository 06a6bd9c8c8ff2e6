// SPDX-License-Identifier: Apache-2.0
#include "cmd/transfer_call.h"

#include <atomic>

#include "base/status.h"

namespace imagefs {
namespace {

using control::v1::MountEvent;

absl::Status CallerLeft() { return absl::CancelledError("the caller is gone"); }

// For a wait that cannot be cancelled: passes on the first of its result and the caller's leaving,
// and ignores the other.
class FirstAnswer {
 public:
  explicit FirstAnswer(absl::AnyInvocable<void(absl::Status)> done) : done_(std::move(done)) {}
  void operator()(const absl::Status& status) {
    if (!given_.exchange(true)) std::exchange(done_, nullptr)(status);
  }

 private:
  std::atomic<bool> given_{false};
  absl::AnyInvocable<void(absl::Status)> done_;
};

}  // namespace

TransferCall::TransferCall(const CallContext& context, grpc::CallbackServerContext* call,
                           bool progress)
    : context_(context),
      call_(call),
      tells_progress_(progress),
      progress_(context.deps.store, context.deps.sources) {}

TransferCall* TransferCall::Start(std::shared_ptr<TransferCall> call) {
  call->self_ = call;
  call->context_.counter.Begin();
  call->context_.ticker.Listen([weak = call->weak_from_this()] {
    const std::shared_ptr<TransferCall> self = weak.lock();
    return self != nullptr && self->Tick();
  });
  call->deps().executor.Submit([call] { call->EndIfFailed(call->Run()); });
  return call.get();
}

void TransferCall::OnDone() {
  Ended(group_->left());
  context_.counter.End();
  self_.reset();
}

absl::StatusOr<ResolveRequest> TransferCall::ParseImage(
    const control::v1::ImageRequest& request) const {
  IMAGEFS_ASSIGN_OR_RETURN(ResolveRequest image, ParseImageRequest(request));
  // Only a caller that sent a credential may later use another in its place.
  if (deps().refresh_of && !image.access.credential.empty()) {
    image.access.refresh = deps().refresh_of(image.reference);
  }
  return image;
}

absl::Status TransferCall::Begin(std::string_view phase, std::string_view timing) {
  if (group_->left()) return CallerLeft();
  progress_.Begin(phase, timing);
  return absl::OkStatus();
}

absl::Status TransferCall::Resolve(ResolveRequest request, Next<ImageStore::Resolved> next) {
  IMAGEFS_RETURN_IF_ERROR(Begin("resolving", "resolve"));
  progress_.SetRegistry(request.reference.host);
  WaitFor(deps().store.Resolve(std::move(request), Then(std::move(next))));
  return absl::OkStatus();
}

absl::Status TransferCall::BeginLayers(const ImageRef& image) {
  IMAGEFS_RETURN_IF_ERROR(Begin("layers", "layers"));
  progress_.Track(image);
  return absl::OkStatus();
}

absl::Status TransferCall::EnsureChain(const ImageStore::Resolved& image, IndexTrust trust,
                                       Next<ChainRef> next) {
  WaitFor(deps().store.EnsureChain(image.image, image.source, std::move(trust),
                                   Priority::kForeground, Then(std::move(next))));
  // Other callers that wait for the same layers are most likely visible right now.
  Tick();
  return absl::OkStatus();
}

absl::Status TransferCall::WaitDurable(const ChainRef& chain, Next<> next) {
  IMAGEFS_RETURN_IF_ERROR(Begin("syncing", "sync"));
  auto first = std::make_shared<FirstAnswer>(
      [self = shared_from_this(), next = std::move(next)](const absl::Status& status) mutable {
        self->EndIfFailed(status.ok() ? next() : status);
      });
  WaitFor(FlightTicket([first] { (*first)(CallerLeft()); }));
  deps().store.WaitDurable(chain, [first, chain](const absl::Status& status) { (*first)(status); });
  return absl::OkStatus();
}

absl::Status TransferCall::OnExecutor(std::string_view phase, std::string_view timing,
                                      Next<> work) {
  IMAGEFS_RETURN_IF_ERROR(Begin(phase, timing));
  deps().executor.Submit(
      [self = shared_from_this(), work = std::move(work)]() mutable { self->EndIfFailed(work()); });
  return absl::OkStatus();
}

MountEvent TransferCall::MakeResult(const ResolvedImage& image) {
  MountEvent event;
  FillImage(image, event.mutable_result()->mutable_image());
  progress_.FillResult(event.mutable_result());
  return event;
}

absl::Status TransferCall::Succeed(MountEvent result) {
  End(absl::OkStatus(), std::move(result));
  return absl::OkStatus();
}

void TransferCall::End(absl::Status status, std::optional<MountEvent> result) {
  if (status.ok() && group_->left()) status = CallerLeft();
  if (!status.ok()) result.reset();
  {
    absl::MutexLock lock(&mu_);
    if (answer_.has_value()) return;
    answer_ = {std::move(status), std::move(result)};
    pending_progress_.reset();
  }
  Pump();
}

bool TransferCall::Tick() {
  {
    absl::MutexLock lock(&mu_);
    if (answer_.has_value()) return false;
  }
  std::optional<MountEvent> news = progress_.Update();
  {
    absl::MutexLock lock(&mu_);
    if (answer_.has_value()) return false;
    if (!tells_progress_ || !news.has_value()) return true;
    pending_progress_ = std::move(news);
  }
  Pump();
  return true;
}

void TransferCall::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mu_);
    stream_ = Stream::kIdle;
    // The caller is gone; OnCancel is called as well.
    if (!ok) pending_progress_.reset();
  }
  Pump();
}

// Passes the next message to gRPC: one write at a time, and the end after the last one.
void TransferCall::Pump() {
  std::optional<absl::Status> end;
  bool write = true;
  {
    absl::MutexLock lock(&mu_);
    if (stream_ != Stream::kIdle) return;
    if (answer_.has_value()) {
      stream_ = Stream::kFinished;
      end = answer_->status;
      write = answer_->result.has_value();
      if (write) outgoing_ = *std::move(answer_->result);
    } else if (pending_progress_.has_value()) {
      stream_ = Stream::kWriting;
      outgoing_ = *std::exchange(pending_progress_, std::nullopt);
    } else {
      return;
    }
  }
  // Once gRPC has been told of the end, OnDone may drop the last reference at any moment.
  if (!end.has_value()) return StartWrite(&outgoing_);
  const grpc::Status status = AnswerOf(call_, *end);
  if (write) return StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), status);
  Finish(status);
}

}  // namespace imagefs
