// SPDX-License-Identifier: Apache-2.0
// One request for something in a repository, to whichever of its endpoints answers it: in their
// order, without those that are in trouble as long as another has an answer
// (fetch/endpoint_health.h). If all fail, and that may pass, all are asked again after a pause.
//
// What has been received is kept: Spec::range() says what the next endpoint is asked for. An
// endpoint that fails is left at once, whatever it had delivered, and so are the requests that wait
// for it. Runs on the HTTP client's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fetch/registry_call.h"
#include "fetch/registry_route.h"

namespace imagefs {

class FailoverCall : public std::enable_shared_from_this<FailoverCall> {
 public:
  enum class Asks {
    kContents,  // by digest: any endpoint may be asked
    kTag        // only those that may resolve tags
  };
  struct What {
    Asks asks = Asks::kContents;
    RegistryCall::Spec spec;
    // Checks a complete answer if there is another endpoint: an error counts as this one's lie.
    // Runs on a thread that may block. May be null.
    std::function<absl::Status(const HttpResponse&)> check;
    // Names of endpoints that are not asked if there is another.
    std::vector<std::string> avoid;
    // An answer of Spec::answers, such as 404, is the result if no other endpoint gives a better
    // one, even if some could not be asked.
    bool any_answer_counts = false;
  };
  // `done` runs exactly once, with the answer or the final error. May be called on any thread.
  static void Run(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                  What what, CancelToken cancel, RegistryCall::Done done);

  ~FailoverCall();

 private:
  FailoverCall(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
               What what, CancelToken cancel, RegistryCall::Done done);

  using Endpoint = std::shared_ptr<const RegistryEndpoint>;

  void StartRound();
  RegistryRoute::Endpoints Candidates();
  bool MayAsk(const RegistryEndpoint& endpoint) const;
  void Next();
  void Ask(Endpoint endpoint, bool last_resort);
  void OnAnswer(absl::StatusOr<HttpResponse> answer);
  void OnResponse(const Endpoint& endpoint, HttpResponse response);
  void OnChecked(const Endpoint& endpoint, HttpResponse response, absl::Status status);
  void OnFailure(const Endpoint& endpoint, absl::Status failure);
  void Judge(const RegistryEndpoint& endpoint, const absl::Status& failure);
  // Requests that wait for that endpoint need not find out by themselves.
  void MoveOthers(const RegistryEndpoint& endpoint);
  void EndRound();
  // The registry itself has said no.
  bool IsDecided() const;
  absl::Status Failure() const;
  void StopAsking();
  void Finish(absl::StatusOr<HttpResponse> result);

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<RegistryRoute> route_;
  const What what_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<HttpResponse>> done_;
  CancelToken::Registration registration_;

  int rounds_ = 0;         // in a row that received little
  uint64_t received_ = 0;  // in this round
  bool alone_ = false;     // a single endpoint, which RegistryCall asks as often as it takes
  std::deque<Endpoint> waiting_, left_out_;  // to be asked in this round
  Endpoint asked_;                           // null: none is being asked
  bool last_resort_ = false;                 // it was left out
  std::chrono::steady_clock::time_point asked_since_;
  CancelSource attempt_;
  bool answers_ = false;  // the endpoint being asked has sent headers
  bool moved_ = false;    // by MoveOthers of another request
  std::vector<std::pair<Endpoint, absl::Status>> failures_;  // of this round, in order
  std::optional<HttpResponse> second_best_;  // an answer that another endpoint may improve on
};

}  // namespace imagefs
