// SPDX-License-Identifier: Apache-2.0
#include "cmd/transfer_call.h"

#include <algorithm>
#include <atomic>

#include "base/log_context.h"
#include "base/status.h"
#include "base/text.h"

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
                           const char* verb, bool progress)
    : context_(context),
      call_(call),
      verb_(verb),
      tells_progress_(progress),
      progress_(context.deps.store, context.deps.sources) {}

TransferCall* TransferCall::Start(std::shared_ptr<TransferCall> call) {
  call->self_ = call;
  const LogContext::Scope scope(LogContext(StrCat(" call=", call->context_.counter.Begin())));
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
  // Only a caller that sent a credential may later use another in its place, unless the user gave
  // that one and no other.
  if (deps().refresh_of && !image.access.credential.empty() && !request.credential().given()) {
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
  SetReference(request.reference.ToString());
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
  return OnExecutor(std::move(work));
}

absl::Status TransferCall::OnExecutor(Next<> work) {
  if (group_->left()) return CallerLeft();
  deps().executor.Submit(
      [self = shared_from_this(), work = std::move(work)]() mutable { self->EndIfFailed(work()); });
  return absl::OkStatus();
}

absl::Status TransferCall::Send(MountEvent part, Next<> next) {
  if (group_->left()) return CallerLeft();
  {
    absl::MutexLock lock(&mu_);
    pending_part_ = std::move(part);
    after_part_ = std::move(next);
  }
  Pump();
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
  const LogLevel level =
      status.ok() || absl::IsCancelled(status) ? LogLevel::kInfo : LogLevel::kWarning;
  std::string line;
  if (LogEnabled(level)) line = LogLineOf(status, result).Take();
  {
    absl::MutexLock lock(&mu_);
    if (answer_.has_value()) return;
    answer_ = {std::move(status), std::move(result)};
    pending_progress_.reset();
    Count(*answer_);
  }
  if (!line.empty()) LogLine(level, line);
  Pump();
}

LogText TransferCall::LogLineOf(const absl::Status& status,
                                const std::optional<MountEvent>& event) const {
  LogText line;
  line.Value(verb_);
  line.Value(status.ok() ? ".finished" : absl::IsCancelled(status) ? ".cancelled" : ".failed");
  if (!reference_.empty()) line.Pair("reference", reference_);
  if (!directory_.empty()) line.Pair("directory", directory_);
  if (event.has_value()) {
    const control::v1::MountResult& result = event->result();
    line.Pair("manifest", result.image().manifest_digest());
    if (result.has_mount()) {
      line.Pair("mode", result.mount().mode());
      line.Pair("state", result.mount().state());
    }
    const auto reused = std::count_if(result.layers().begin(), result.layers().end(),
                                      [](const auto& layer) { return layer.reused(); });
    line.Pair("layers", StrCat(result.layers_size()));
    line.Pair("reused", StrCat(reused));
    line.Pair("fetched_bytes", StrCat(result.fetched_bytes()));
    for (const control::v1::Timing& timing : result.timings()) {
      line.Pair(StrCat(timing.step(), "_ms"), StrCat(timing.microseconds() / 1000));
    }
  } else {
    line.Pair("phase", progress_.phase());
    line.Pair("code", ToStd(absl::StatusCodeToString(status.code())));
  }
  line.Pair("total_ms", StrCat(absl::ToInt64Milliseconds(Moment::Now() - begin_)));
  if (!status.ok()) line.Pair("cause", ToStd(status.message()));
  return line;
}

void TransferCall::Count(const Answer& answer) const {
  if (deps().metrics == nullptr) return;
  CallMetrics::Call call;
  call.command = verb_;
  call.status = answer.status;
  call.took = absl::ToChronoNanoseconds(Moment::Now() - begin_);
  if (answer.result.has_value()) {
    call.mode = answer.result->result().mount().mode();
    for (const control::v1::Timing& timing : answer.result->result().timings()) {
      call.steps.emplace_back(timing.step(), timing.microseconds());
    }
  }
  deps().metrics->Ended(call);
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
  Next<> after;
  {
    absl::MutexLock lock(&mu_);
    if (stream_ == Stream::kWritingPart) after = std::exchange(after_part_, nullptr);
    stream_ = Stream::kIdle;
    // The caller is gone; OnCancel is called as well.
    if (!ok) pending_progress_.reset();
  }
  if (after != nullptr) EndIfFailed(ok ? OnExecutor(std::move(after)) : CallerLeft());
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
    } else if (pending_part_.has_value()) {
      stream_ = Stream::kWritingPart;
      outgoing_ = *std::exchange(pending_part_, std::nullopt);
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
