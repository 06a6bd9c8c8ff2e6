// SPDX-License-Identifier: Apache-2.0
// A call that streams its progress and then its result: Mount, Pull, Add, Index, Files and others.
// This is their common part; each verb is a class of its own (mount_call.cc, pull_call.cc,
// files_call.cc, ...) whose Run starts its steps in order. A verb may also stream parts of its
// result, at the pace of the caller. Included only by the service's own .cc files,
// because it includes gRPC.
//
// A step returns at once and later passes its result to its `next`, on the thread that completes
// it. An error, from the step or returned by `next`, ends the call. Nothing of a call runs between
// two steps, so a verb's fields that one step sets and later steps read need no lock.
//
// A call owns itself: it lives until gRPC is done with it, and each running step keeps it alive. It
// ends once: with a result, with the first error, or because its caller went away. The latter also
// leaves the single-flight tasks it waits for; work on the executor is finished first.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/ticket_group.h"
#include "cache/image_store.h"
#include "cmd/call_metrics.h"
#include "cmd/calls.h"
#include "cmd/transfer_progress.h"
#include "proto/control.grpc.pb.h"

namespace imagefs {

class TransferCall : public grpc::ServerWriteReactor<control::v1::MountEvent>,
                     public std::enable_shared_from_this<TransferCall> {
 public:
  // Runs `call` on the executor.
  static TransferCall* Start(std::shared_ptr<TransferCall> call);

  // Called by gRPC.
  void OnWriteDone(bool ok) final;
  void OnCancel() final { TicketGroup::TicketOf(group_).Leave(); }
  void OnDone() final;

 protected:
  template <typename... Args>
  using Next = absl::AnyInvocable<absl::Status(Args...)>;

  // `context` and everything it refers to must outlive the call. `verb`: in log lines and metrics;
  // static. `progress`: the caller wants progress events.
  TransferCall(const CallContext& context, grpc::CallbackServerContext* call, const char* verb,
               bool progress);

  // Runs the verb. Called once, on the executor.
  virtual absl::Status Run() = 0;
  // Called when the call is over and no step runs. `left`: the caller went away, and may not have
  // been told of a success.
  virtual void Ended(bool /*left*/) {}

  // Parses the request's image; the result can also renew its credentials.
  absl::StatusOr<ResolveRequest> ParseImage(const control::v1::ImageRequest& request) const;

  // What the call is about, for its log line. Resolve sets the reference.
  void SetReference(std::string reference) { reference_ = std::move(reference); }
  void SetDirectory(std::string directory) { directory_ = std::move(directory); }

  // Steps shared by several verbs.
  absl::Status Resolve(ResolveRequest request, Next<ImageStore::Resolved> next);
  // Begins the progress of the image's layers.
  absl::Status BeginLayers(const ImageRef& image);
  // Makes the image mountable. Call after BeginLayers.
  absl::Status EnsureChain(const ImageStore::Resolved& image, IndexTrust trust,
                           Next<ChainRef> next);
  // Fetches what is missing and waits until all of it is durable.
  absl::Status WaitDurable(const ChainRef& chain, Next<> next);
  // Runs `work` that blocks on the local disk or mount(2). It is the last step or starts the next
  // one.
  absl::Status OnExecutor(std::string_view phase, std::string_view timing, Next<> work);

  // Runs a step on the executor within the running phase.
  absl::Status OnExecutor(Next<> work);
  // Sends a part of the result, and runs `next` on the executor when the connection takes the next
  // one: at most one part waits in memory. One step at a time. If the caller is gone, the call
  // ends.
  absl::Status Send(control::v1::MountEvent part, Next<> next) ABSL_LOCKS_EXCLUDED(mu_);

  // For steps of a single verb. Returns kCancelled if the caller has gone away.
  absl::Status Begin(std::string_view phase, std::string_view timing);
  // Returns the completion callback of a single-flight task.
  template <typename T>
  absl::AnyInvocable<void(absl::StatusOr<T>)> Then(Next<T> next) {
    return [self = shared_from_this(), next = std::move(next)](absl::StatusOr<T> result) mutable {
      self->EndIfFailed(result.ok() ? next(*std::move(result)) : result.status());
    };
  }
  void EndIfFailed(const absl::Status& status) {
    if (!status.ok()) End(status, std::nullopt);
  }
  // Releases the ticket if the caller goes away.
  void WaitFor(const FlightTicket& ticket) { group_->Add(ticket); }

  // Makes the common part of the verbs' results: the image and its state.
  control::v1::MountEvent MakeResult(const ResolvedImage& image);
  // Ends the call with that result. Returns OK.
  absl::Status Succeed(control::v1::MountEvent result);

  const CallContext& context() const { return context_; }
  const ControlService::Deps& deps() const { return context_.deps; }
  TransferProgress& progress() { return progress_; }

 private:
  struct Answer {
    absl::Status status;
    std::optional<control::v1::MountEvent> result;
  };
  // Idempotent: only the first call counts.
  void End(absl::Status status, std::optional<control::v1::MountEvent> result)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Counts the call as ended.
  void Count(const Answer& answer) const;
  // Sends new progress to the caller. Returns false once the call has ended.
  bool Tick() ABSL_LOCKS_EXCLUDED(mu_);
  void Pump() ABSL_LOCKS_EXCLUDED(mu_);
  // One line for the whole call.
  LogText LogLineOf(const absl::Status& status,
                    const std::optional<control::v1::MountEvent>& event) const;

  const CallContext& context_;
  grpc::CallbackServerContext* const call_;
  const char* const verb_;
  const bool tells_progress_;
  const Moment begin_ = Moment::Now();
  std::string reference_, directory_;   // "" = none, or not yet known
  std::shared_ptr<TransferCall> self_;  // until OnDone
  // The tickets to release if the caller goes away.
  const std::shared_ptr<TicketGroup> group_ = std::make_shared<TicketGroup>();
  TransferProgress progress_;

  absl::Mutex mu_;
  std::optional<Answer> answer_ ABSL_GUARDED_BY(mu_);  // set when the call ends
  // The latest progress event that has not been written yet.
  std::optional<control::v1::MountEvent> pending_progress_ ABSL_GUARDED_BY(mu_);
  // The part that waits to be written, and the step after it.
  std::optional<control::v1::MountEvent> pending_part_ ABSL_GUARDED_BY(mu_);
  Next<> after_part_ ABSL_GUARDED_BY(mu_);
  enum class Stream { kIdle, kWriting, kWritingPart, kFinished };
  Stream stream_ ABSL_GUARDED_BY(mu_) = Stream::kIdle;
  control::v1::MountEvent outgoing_;  // owned by gRPC during a write
};

}  // namespace imagefs
