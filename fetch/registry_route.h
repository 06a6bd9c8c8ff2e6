// SPDX-License-Identifier: Apache-2.0
// The endpoints for one repository with one identity: the registry itself and its mirrors, as
// configured (fetch/hosts.h). Changes of the configuration are picked up while it is in use, so
// that a mount that lives for weeks follows them.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "fetch/registry_shared.h"
#include "fetch/source.h"

namespace imagefs {

class RegistryRoute : public std::enable_shared_from_this<RegistryRoute> {
 public:
  using Endpoints = std::vector<std::shared_ptr<const RegistryEndpoint>>;

  // Reads the configuration: may block on local disk. Errors like HostResolver::PlanFor.
  static absl::StatusOr<std::shared_ptr<RegistryRoute>> Create(
      std::shared_ptr<RegistryShared> shared, const Reference& reference,
      const SourceFactory::Access& access);

  // The registry as written in the reference.
  const std::string& host() const { return reference_.host; }
  const std::string& auth_scope() const { return auth_scope_; }
  // "HOST/REPOSITORY", for messages.
  std::string Name() const;

  // In order of preference, never empty. Starts to look for changes if that was long ago. On the
  // HTTP client's thread only.
  const Endpoints& endpoints();
  // The endpoint to push to: the first that accepts uploads. Only directly after Create.
  absl::StatusOr<std::shared_ptr<RegistryEndpoint>> PushEndpoint() const;
  // The endpoint that is the registry itself, whatever it accepts. Only directly after Create.
  absl::StatusOr<std::shared_ptr<RegistryEndpoint>> RegistryItself() const;
  // The same repository at this endpoint alone, whatever the configuration says later.
  std::shared_ptr<RegistryRoute> Only(const RegistryEndpoint& endpoint) const;

 private:
  RegistryRoute(std::shared_ptr<RegistryShared> shared, const Reference& reference,
                const SourceFactory::Access& access);
  std::shared_ptr<RegistryEndpoint> MakeEndpoint(const HostEndpoint& at) const;
  std::shared_ptr<RegistryEndpoint> MakeNamed(const HostEndpoint& at) const;
  using FoundPlan = absl::StatusOr<std::shared_ptr<const HostPlan>>;
  void Take(std::shared_ptr<const HostPlan> plan);
  // Uses what the last look at the configuration found, and starts the next one when it is due.
  void Refresh();
  void OnPlan(FoundPlan plan);

  const std::shared_ptr<RegistryShared> shared_;
  const Reference reference_;
  const SourceFactory::Access access_;
  const std::shared_ptr<EndpointIdentity> identity_;
  const std::string auth_scope_;
  // After Create, on the HTTP client's thread only.
  std::shared_ptr<const HostPlan> plan_;
  Endpoints endpoints_;
  std::chrono::steady_clock::time_point checked_;
  bool checking_ = false;
  bool fixed_ = false;   // never look for changes
  std::string trouble_;  // why the current configuration cannot be used; already logged
  absl::Mutex mu_;
  std::optional<FoundPlan> found_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
