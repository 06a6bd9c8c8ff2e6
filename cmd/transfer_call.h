// SPDX-License-Identifier: Apache-2.0
// A call that streams its progress and then its result: Mount, Pull, Add and Index. This is what
// they share; each verb is a class of its own (mount_call.cc, pull_call.cc, add_call.cc,
// index_call.cc) whose Run names its steps in their order. Included by the service's own .cc files
// only: it brings in gRPC.
//
// A step returns at once. What it makes is handed to its `next`, on whichever thread that ends it;
// a failure, of the step or returned by `next`, ends the call with it. Between two steps nothing of
// a call runs, so that fields of a verb, set by one step and read by later ones, need no lock.
//
// A call owns itself: it lives until gRPC is done with it, and each step that runs keeps it alive.
// It ends once: with a result, with the first failure, or because its caller left. That makes it
// leave the flights it waits for; what runs on the executor is finished first.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/ticket_group.h"
#include "cache/image_store.h"
#include "cmd/calls.h"
#include "cmd/transfer_progress.h"
#include "proto/control.grpc.pb.h"

namespace imagefs {

class TransferCall : public grpc::ServerWriteReactor<control::v1::MountEvent>,
                     public std::enable_shared_from_this<TransferCall> {
 public:
  // Has `call` run on the executor.
  static TransferCall* Start(std::shared_ptr<TransferCall> call);

  // gRPC's.
  void OnWriteDone(bool ok) final;
  void OnCancel() final { TicketGroup::TicketOf(group_).Leave(); }
  void OnDone() final;

 protected:
  template <typename... Args>
  using Next = absl::AnyInvocable<absl::Status(Args...)>;

  // `context` and what it names outlive the call. `progress`: the caller wants to be told of it.
  TransferCall(const CallContext& context, grpc::CallbackServerContext* call, bool progress);

  // The verb, on the executor, once.
  virtual absl::Status Run() = 0;
  // The call is over; no step runs any more. `left`: the caller may not have learned of a success.
  virtual void Ended(bool /*left*/) {}

  // The request's image, with the way to renew its credentials.
  absl::StatusOr<ResolveRequest> ParseImage(const control::v1::ImageRequest& request) const;

  // The steps that more than one verb has.
  absl::Status Resolve(ResolveRequest request, Next<ImageStore::Resolved> next);
  // Begins to tell of the image's layers.
  absl::Status BeginLayers(const ImageRef& image);
  // Makes the image showable, after BeginLayers.
  absl::Status EnsureChain(const ImageStore::Resolved& image, IndexTrust trust,
                           Next<ChainRef> next);
  // Brings what is missing, and waits until all of it is on the disk.
  absl::Status WaitDurable(const ChainRef& chain, Next<> next);
  // What blocks on the local disk or mount(2); it is the last step, or starts the next one.
  absl::Status OnExecutor(std::string_view phase, std::string_view timing, Next<> work);

  // For the steps of one verb: kCancelled where the caller has left.
  absl::Status Begin(std::string_view phase, std::string_view timing);
  // What a flight is to call at its end.
  template <typename T>
  absl::AnyInvocable<void(absl::StatusOr<T>)> Then(Next<T> next) {
    return [self = shared_from_this(), next = std::move(next)](absl::StatusOr<T> result) mutable {
      self->EndIfFailed(result.ok() ? next(*std::move(result)) : result.status());
    };
  }
  // The flight is left with the caller.
  void WaitFor(const FlightTicket& ticket) { group_->Add(ticket); }

  // The image, and what has become of it by now: what the result of each verb begins with.
  control::v1::MountEvent MakeResult(const ResolvedImage& image);
  // Ends the call with that result. Ok.
  absl::Status Succeed(control::v1::MountEvent result);

  const CallContext& context() const { return context_; }
  const ControlService::Deps& deps() const { return context_.deps; }
  TransferProgress& progress() { return progress_; }

 private:
  // Does nothing after the first time.
  void End(absl::Status status, std::optional<control::v1::MountEvent> result)
      ABSL_LOCKS_EXCLUDED(mu_);
  void EndIfFailed(const absl::Status& status) {
    if (!status.ok()) End(status, std::nullopt);
  }
  // Tells the caller of what is new; false once the call has ended.
  bool Tick() ABSL_LOCKS_EXCLUDED(mu_);
  void Pump() ABSL_LOCKS_EXCLUDED(mu_);

  const CallContext& context_;
  grpc::CallbackServerContext* const call_;
  const bool tells_progress_;
  std::shared_ptr<TransferCall> self_;  // until OnDone
  // Everything that is left when the caller goes away.
  const std::shared_ptr<TicketGroup> group_ = std::make_shared<TicketGroup>();
  TransferProgress progress_;

  struct Answer {
    absl::Status status;
    std::optional<control::v1::MountEvent> result;
  };
  absl::Mutex mu_;
  std::optional<Answer> answer_ ABSL_GUARDED_BY(mu_);  // set when the call ends
  // The newest progress that is not written yet.
  std::optional<control::v1::MountEvent> news_ ABSL_GUARDED_BY(mu_);
  enum class Stream { kIdle, kWriting, kFinished };
  Stream stream_ ABSL_GUARDED_BY(mu_) = Stream::kIdle;
  control::v1::MountEvent outgoing_;  // gRPC's while it writes
};

}  // namespace imagefs
