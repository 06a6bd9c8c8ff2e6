// SPDX-License-Identifier: Apache-2.0
#include "fetch/failover_call.h"

#include <algorithm>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/backoff.h"

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;

// How long a mirror may be silent if another endpoint can be asked.
constexpr std::chrono::milliseconds kMirrorSilence(10'000);

// Whether the failure says something about the endpoint, and not about what it was asked for.
bool IsTrouble(const absl::Status& failure) {
  return TransportFailureOf(failure) != TransportFailure::kNone || IsRetriable(failure) ||
         absl::IsResourceExhausted(failure);
}

// Whether it will fail for everybody who waits for it.
bool IsDead(TransportFailure kind) {
  switch (kind) {
    case TransportFailure::kUnknownHost:
    case TransportFailure::kRefused:
    case TransportFailure::kUnreachable:
    case TransportFailure::kUntrusted:
    case TransportFailure::kNotTls:
    case TransportFailure::kStalled:
    case TransportFailure::kProxyRefuses:
      return true;
    default:
      return false;
  }
}

}  // namespace

void FailoverCall::Run(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                       What what, CancelToken cancel, RegistryCall::Done done) {
  HttpClient& http = shared->http;
  std::shared_ptr<FailoverCall> call(new FailoverCall(
      std::move(shared), std::move(route), std::move(what), std::move(cancel), std::move(done)));
  http.After({}, [call = std::move(call)] {
    call->registration_ =
        OnCancelAt(call->shared_->http, call->cancel_, [weak = std::weak_ptr(call)] {
          if (const auto self = weak.lock())
            self->Finish(absl::CancelledError("request cancelled"));
        });
    call->StartRound();
  });
}

FailoverCall::FailoverCall(std::shared_ptr<RegistryShared> shared,
                           std::shared_ptr<RegistryRoute> route, What what, CancelToken cancel,
                           RegistryCall::Done done)
    : shared_(std::move(shared)),
      route_(std::move(route)),
      what_(std::move(what)),
      cancel_(std::move(cancel)),
      done_(std::move(done)) {}

FailoverCall::~FailoverCall() { StopAsking(); }

bool FailoverCall::MayAsk(const RegistryEndpoint& endpoint) const {
  return what_.asks == Asks::kTag ? endpoint.at.resolve : endpoint.at.pull;
}

RegistryRoute::Endpoints FailoverCall::Candidates() {
  RegistryRoute::Endpoints candidates;
  for (const Endpoint& endpoint : route_->endpoints()) {
    if (what_.spec.url) {
      // The continuation of an answer, at whoever gave that.
      const absl::StatusOr<Url> base =
          Url::Parse(StrCat(what_.spec.url->scheme, "://", endpoint->at.host));
      if (!base.ok() || !base->SameOrigin(*what_.spec.url)) continue;
    }
    if (MayAsk(*endpoint)) candidates.push_back(endpoint);
  }
  if (what_.spec.url && candidates.empty()) return {route_->endpoints().back()};
  const auto wanted = [this](const Endpoint& endpoint) {
    return std::find(what_.avoid.begin(), what_.avoid.end(), endpoint->name) == what_.avoid.end();
  };
  if (std::any_of(candidates.begin(), candidates.end(), wanted)) {
    std::erase_if(candidates, [&](const Endpoint& endpoint) { return !wanted(endpoint); });
  }
  return candidates;
}

void FailoverCall::StartRound() {
  if (done_.called()) return;
  const RegistryRoute::Endpoints candidates = Candidates();
  if (candidates.empty()) {
    return Finish(absl::FailedPreconditionError(StrCat(
        what_.spec.what, ": no endpoint of ", route_->host(), " may be asked for ",
        what_.asks == Asks::kTag ? "tags (capability \"resolve\")" : "blobs (capability \"pull\")",
        "; check ", route_->endpoints().back()->at.origin)));
  }
  alone_ = candidates.size() == 1;
  waiting_.assign(candidates.begin(), candidates.end());
  left_out_.clear();
  failures_.clear();
  // The first one is what the other read waits for.
  if (what_.spec.hedge && !alone_)
    std::rotate(waiting_.begin(), waiting_.begin() + 1, waiting_.end());
  Next();
}

void FailoverCall::Next() {
  if (done_.called()) return;
  if (cancel_.cancelled()) return Finish(absl::CancelledError("request cancelled"));
  while (!waiting_.empty()) {
    Endpoint endpoint = std::move(waiting_.front());
    waiting_.pop_front();
    if (alone_ || shared_->health.MayTry(endpoint->name, Clock::now())) {
      return Ask(std::move(endpoint), false);
    }
    left_out_.push_back(std::move(endpoint));
  }
  const bool answered = second_best_ && what_.any_answer_counts;
  if (left_out_.empty() || answered || IsDecided()) return EndRound();
  Endpoint endpoint = std::move(left_out_.front());
  left_out_.pop_front();
  Ask(std::move(endpoint), true);
}

void FailoverCall::Ask(Endpoint endpoint, bool last_resort) {
  asked_ = std::move(endpoint);
  last_resort_ = last_resort;
  asked_since_ = Clock::now();
  answers_ = moved_ = false;
  attempt_ = CancelSource();
  RegistryCall::Spec spec = what_.spec;
  spec.once = spec.once || !alone_;
  spec.never_resumes = !alone_;
  if (!alone_) {
    if (asked_->at.mirror) spec.stall_timeout = std::min(spec.stall_timeout, kMirrorSilence);
    shared_->asking[asked_->name].insert(this);
    spec.on_headers = [self = shared_from_this()](
                          const RegistryEndpoint& answering,
                          const HttpResponse& response) -> absl::StatusOr<HttpClient::Sink> {
      self->answers_ = true;
      if (!self->what_.spec.on_headers) return HttpClient::Sink();
      absl::StatusOr<HttpClient::Sink> sink = self->what_.spec.on_headers(answering, response);
      if (!sink.ok() || !*sink) return sink;
      return HttpClient::Sink([self, sink = *std::move(sink)](std::string_view data) mutable {
        self->received_ += data.size();
        return sink(data);
      });
    };
  }
  RegistryCall::Start(shared_, asked_, std::move(spec), attempt_.token(),
                      [self = shared_from_this()](absl::StatusOr<HttpResponse> answer) {
                        self->OnAnswer(std::move(answer));
                      });
}

void FailoverCall::OnAnswer(absl::StatusOr<HttpResponse> answer) {
  if (done_.called()) return;
  const Endpoint endpoint = asked_;
  StopAsking();
  if (moved_ && absl::IsCancelled(answer.status())) {
    failures_.emplace_back(endpoint, absl::UnavailableError(StrCat(
                                         endpoint->name, " does not answer other requests")));
    return Next();
  }
  if (alone_) return Finish(std::move(answer));
  if (!answer.ok()) return OnFailure(endpoint, answer.status());
  OnResponse(endpoint, *std::move(answer));
}

void FailoverCall::OnResponse(const Endpoint& endpoint, HttpResponse response) {
  if (response.status >= 400 || !what_.check) {
    return OnChecked(endpoint, std::move(response), absl::OkStatus());
  }
  shared_->answers.Submit(
      [self = shared_from_this(), endpoint, response = std::move(response)]() mutable {
        absl::Status status = self->what_.check(response);
        self->shared_->Post([self, endpoint, response = std::move(response), status]() mutable {
          self->OnChecked(endpoint, std::move(response), std::move(status));
        });
      });
}

void FailoverCall::OnChecked(const Endpoint& endpoint, HttpResponse response, absl::Status status) {
  if (done_.called()) return;
  if (!status.ok()) {
    shared_->health.Lied(endpoint->name, Clock::now());
    failures_.emplace_back(endpoint, std::move(status));
    return Next();
  }
  shared_->health.Worked(endpoint->name, Clock::now());
  const bool good = response.status < 400;
  if (good || (!endpoint->at.mirror && waiting_.empty())) return Finish(std::move(response));
  if (!second_best_) second_best_ = std::move(response);
  Next();
}

void FailoverCall::OnFailure(const Endpoint& endpoint, absl::Status failure) {
  if (absl::IsCancelled(failure) || cancel_.cancelled()) {
    shared_->health.Abandoned(endpoint->name);
    return Finish(std::move(failure));
  }
  Judge(*endpoint, failure);
  LogDebug("endpoint_failed endpoint=", endpoint->name, " cause=", failure.message());
  failures_.emplace_back(endpoint, std::move(failure));
  Next();
}

void FailoverCall::Judge(const RegistryEndpoint& endpoint, const absl::Status& failure) {
  const Clock::time_point now = Clock::now();
  if (absl::IsDataLoss(failure)) return shared_->health.Lied(endpoint.name, now);
  if (!IsTrouble(failure)) return shared_->health.Worked(endpoint.name, now);
  shared_->health.Failed(endpoint.name, failure, RetryAfterOf(failure), asked_since_, now);
  shared_->failovers.fetch_add(1, std::memory_order_relaxed);
  if (IsDead(TransportFailureOf(failure))) MoveOthers(endpoint);
}

void FailoverCall::MoveOthers(const RegistryEndpoint& endpoint) {
  const auto it = shared_->asking.find(endpoint.name);
  if (it == shared_->asking.end()) return;
  std::vector<std::shared_ptr<FailoverCall>> others;
  for (FailoverCall* other : it->second) {
    if (!other->answers_ && !other->last_resort_) others.push_back(other->shared_from_this());
  }
  for (const auto& other : others) {
    other->moved_ = true;
    other->attempt_.Cancel();
  }
}

bool FailoverCall::IsDecided() const {
  return std::any_of(failures_.begin(), failures_.end(), [](const auto& failure) {
    return !failure.first->at.mirror && !IsTrouble(failure.second) &&
           !absl::IsDataLoss(failure.second);
  });
}

void FailoverCall::EndRound() {
  rounds_ = std::exchange(received_, 0) >= RegistryCall::kProgressBytes ? 1 : rounds_ + 1;
  if (second_best_ && (what_.any_answer_counts || failures_.empty())) {
    return Finish(*std::move(second_best_));
  }
  absl::Status failure = Failure();
  const auto may_pass = [](const auto& one) {
    return IsRetriable(one.second) || absl::IsResourceExhausted(one.second);
  };
  const bool passes = std::any_of(failures_.begin(), failures_.end(), may_pass);
  const bool refused = std::all_of(failures_.begin(), failures_.end(), [&](const auto& one) {
    return !may_pass(one) || TransportFailureOf(one.second) == TransportFailure::kRefused;
  });
  const int most = refused ? std::min(RegistryCall::kMaxRefusals, shared_->options.max_attempts)
                           : shared_->options.max_attempts;
  if (what_.spec.once || alone_ || IsDecided() || !passes || rounds_ >= most) {
    return Finish(std::move(failure));
  }
  std::chrono::milliseconds delay = BackoffDelay(shared_->options.first_backoff, rounds_);
  if (const auto asked = RetryAfterOf(failure)) {
    delay = std::max<std::chrono::milliseconds>(delay, std::min(*asked, kMaxRetryAfter));
  }
  LogDebug("registry_retry registry=", route_->host(), " round=", rounds_,
           " delay_ms=", delay.count(), " cause=", failure.message());
  shared_->RecordRetry(route_->host(), failure, rounds_ + 1, most);
  shared_->retries.fetch_add(1, std::memory_order_relaxed);
  shared_->http.After(delay, [self = shared_from_this()] { self->StartRound(); });
}

// The registry's own answer counts most; what its mirrors said explains why it was asked at all.
absl::Status FailoverCall::Failure() const {
  if (failures_.empty()) return absl::NotFoundError(StrCat(what_.spec.what, " does not exist"));
  size_t chosen = failures_.size() - 1;
  for (size_t i = 0; i < failures_.size(); ++i) {
    if (!failures_[i].first->at.mirror) chosen = i;
  }
  const absl::Status& status = failures_[chosen].second;
  std::string text(status.message());
  for (size_t i = 0; i < failures_.size(); ++i) {
    if (i == chosen) continue;
    StrAppend(&text, i == 0 || (i == 1 && chosen == 0) ? " (asked as well: " : "; ",
              failures_[i].first->name, ": ", ToStd(failures_[i].second.message()));
  }
  if (failures_.size() > 1) text += ")";
  absl::Status failure(status.code(), text);
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { failure.SetPayload(url, payload); });
  return failure;
}

void FailoverCall::StopAsking() {
  if (asked_ == nullptr) return;
  if (const auto it = shared_->asking.find(asked_->name); it != shared_->asking.end()) {
    it->second.erase(this);
    if (it->second.empty()) shared_->asking.erase(it);
  }
  asked_.reset();
}

void FailoverCall::Finish(absl::StatusOr<HttpResponse> result) {
  if (done_.called()) return;
  const auto keep = shared_from_this();
  registration_.Reset();
  if (asked_ != nullptr) {
    shared_->health.Abandoned(asked_->name);
    StopAsking();
    attempt_.Cancel();
  }
  done_(std::move(result));
}

}  // namespace imagefs
