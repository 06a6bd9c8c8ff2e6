// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry_route.h"

#include <utility>

#include "base/log.h"
#include "base/text.h"

namespace imagefs {
namespace {

// A mirror is near. If it does not take the connection by then, the next endpoint is asked.
constexpr std::chrono::milliseconds kMirrorDial(5'000);

}  // namespace

absl::StatusOr<std::shared_ptr<RegistryRoute>> RegistryRoute::Create(
    std::shared_ptr<RegistryShared> shared, const Reference& reference,
    const SourceFactory::Access& access) {
  absl::StatusOr<std::shared_ptr<const HostPlan>> plan = shared->resolver.PlanFor(reference);
  if (!plan.ok()) return plan.status();
  std::shared_ptr<RegistryRoute> route(new RegistryRoute(std::move(shared), reference, access));
  route->Take(*std::move(plan));
  return route;
}

RegistryRoute::RegistryRoute(std::shared_ptr<RegistryShared> shared, const Reference& reference,
                             const SourceFactory::Access& access)
    : shared_(std::move(shared)),
      reference_(reference),
      access_(access),
      identity_(std::make_shared<EndpointIdentity>(access.credential, access.refresh)),
      auth_scope_(StrCat(reference.host, "/", reference.repository, " ", identity_->fingerprint())),
      checked_(std::chrono::steady_clock::now()) {}

std::string RegistryRoute::Name() const {
  return StrCat(reference_.host, "/", reference_.repository);
}

std::shared_ptr<RegistryEndpoint> RegistryRoute::MakeEndpoint(const HostEndpoint& at) const {
  std::shared_ptr<RegistryEndpoint> endpoint = MakeNamed(at);
  if (endpoint->at.tls->clients.empty()) {
    endpoint->tls_elsewhere = endpoint->at.tls;
  } else {
    auto tls = std::make_shared<TlsSettings>(*endpoint->at.tls);
    tls->clients.clear();
    endpoint->tls_elsewhere = std::move(tls);
  }
  return endpoint;
}

std::shared_ptr<RegistryEndpoint> RegistryRoute::MakeNamed(const HostEndpoint& at) const {
  auto endpoint = std::make_shared<RegistryEndpoint>();
  endpoint->at = at;
  endpoint->name = at.Name();
  endpoint->registry = reference_.host;
  endpoint->proxies = access_.proxies;
  endpoint->loopback = IsLoopbackHost(at.host);
  if (at.mirror) {
    endpoint->host = at.host;
    endpoint->identity = shared_->MirrorIdentity(at);
    endpoint->auth_scope = StrCat(at.host, at.root, "/", at.repository, " mirror");
    if (!at.dial_timeout) endpoint->at.dial_timeout = kMirrorDial;
    return endpoint;
  }
  endpoint->host = reference_.host;
  endpoint->identity = identity_;
  endpoint->auth_scope = auth_scope_;
  endpoint->credential_trouble = access_.credential_trouble;
  if (access_.plain_http) endpoint->at.scheme = HostEndpoint::Scheme::kHttp;
  if (!access_.verify_tls && at.tls->verify) {
    auto tls = std::make_shared<TlsSettings>(*at.tls);
    tls->verify = false;
    endpoint->at.tls = std::move(tls);
  }
  return endpoint;
}

// Endpoints that have not changed are kept, with what is known of them.
void RegistryRoute::Take(std::shared_ptr<const HostPlan> plan) {
  if (plan == plan_ || (plan_ != nullptr && *plan == *plan_)) return;
  Endpoints endpoints;
  for (const HostEndpoint& at : *plan) {
    std::shared_ptr<const RegistryEndpoint> endpoint;
    for (size_t i = 0; plan_ != nullptr && i < plan_->size(); ++i) {
      if ((*plan_)[i] == at) endpoint = endpoints_[i];
    }
    endpoints.push_back(endpoint != nullptr ? std::move(endpoint) : MakeEndpoint(at));
  }
  plan_ = std::move(plan);
  endpoints_ = std::move(endpoints);
}

std::shared_ptr<RegistryRoute> RegistryRoute::Only(const RegistryEndpoint& endpoint) const {
  auto one = std::make_shared<RegistryEndpoint>(endpoint);
  one->at.pull = one->at.resolve = true;
  std::shared_ptr<RegistryRoute> route(new RegistryRoute(shared_, reference_, access_));
  route->endpoints_ = {std::move(one)};
  route->fixed_ = true;
  return route;
}

const RegistryRoute::Endpoints& RegistryRoute::endpoints() {
  if (!fixed_) Refresh();
  return endpoints_;
}

// The answer is left for the next call: the HTTP client may be gone when it arrives.
void RegistryRoute::Refresh() {
  std::optional<FoundPlan> found;
  {
    absl::MutexLock lock(&mu_);
    found.swap(found_);
  }
  if (found) OnPlan(*std::move(found));
  if (checking_ || std::chrono::steady_clock::now() - checked_ < HostResolver::kRecheck) return;
  checking_ = true;
  shared_->answers.Submit([self = shared_from_this()] {
    FoundPlan plan = self->shared_->resolver.PlanFor(self->reference_);
    absl::MutexLock lock(&self->mu_);
    self->found_ = std::move(plan);
  });
}

void RegistryRoute::OnPlan(FoundPlan plan) {
  checking_ = false;
  checked_ = std::chrono::steady_clock::now();
  if (plan.ok()) {
    trouble_.clear();
    return Take(*std::move(plan));
  }
  // What worked goes on, as it would in a process that had read the file at its start.
  if (trouble_ == plan.status().message()) return;
  trouble_ = std::string(plan.status().message());
  LogWarning("hosts_not_read registry=", reference_.host, " cause=", trouble_);
}

absl::StatusOr<std::shared_ptr<RegistryEndpoint>> RegistryRoute::RegistryItself() const {
  for (const auto& endpoint : endpoints_) {
    if (!endpoint->at.mirror) return std::make_shared<RegistryEndpoint>(*endpoint);
  }
  return absl::FailedPreconditionError(StrCat(reference_.host, ": ", endpoints_.back()->at.origin,
                                              " names only mirrors of it; log in to those"));
}

absl::StatusOr<std::shared_ptr<RegistryEndpoint>> RegistryRoute::PushEndpoint() const {
  for (const auto& endpoint : endpoints_) {
    if (endpoint->at.push) return std::make_shared<RegistryEndpoint>(*endpoint);
  }
  return absl::FailedPreconditionError(
      StrCat("cannot push to ", Name(), ": none of its endpoints accepts uploads (",
             endpoints_.back()->at.origin, "); add the capability \"push\" to one"));
}

}  // namespace imagefs
