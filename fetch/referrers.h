// SPDX-License-Identifier: Apache-2.0
// Lists the referrers of a manifest: queries the referrers API (distribution-spec 1.1), page by
// page, and the tag sha256-<hex> in which registries without that API keep the list. Runs on the
// HTTP client's thread.
//
// Whether a host has the API is remembered. As long as that is unknown, both are queried
// concurrently, at the cost of one round trip, and the results are merged; later calls query only
// one of them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "fetch/failover_call.h"
#include "fetch/source.h"

namespace imagefs {

class ReferrersRead : public std::enable_shared_from_this<ReferrersRead> {
 public:
  // May be called on any thread.
  static void Run(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                  const Digest& subject, const std::string& artifact_type, CancelToken cancel,
                  ImageSource::ReferrersDone done);

 private:
  ReferrersRead(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                const Digest& subject, const std::string& artifact_type, CancelToken cancel,
                ImageSource::ReferrersDone done);

  void Start();
  void QueryApi(std::optional<Url> page);
  void OnApi(absl::StatusOr<HttpResponse> response);
  void OnApiMissing(bool remember);
  void OnApiDone(absl::Status status);
  void QueryTag();
  void OnTag(absl::StatusOr<HttpResponse> response);
  absl::Status Take(const ImageIndex& index);
  void FinishWhenAnswered();
  // State of the registry itself, whose answer is the last word.
  RegistryShared::Host& host() { return shared_->HostState(route_->endpoints().back()->at.host); }

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<RegistryRoute> route_;
  const Digest subject_;
  const std::string artifact_type_;
  const std::string what_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<std::vector<Descriptor>>> done_;

  bool waiting_api_ = false, waiting_tag_ = false;
  bool asked_tag_ = false;
  int pages_ = 0;
  bool api_answered_ = false;  // a failure of the tag is then ignored
  absl::Status api_failure_, tag_failure_;
  absl::flat_hash_set<Digest> seen_;
  std::vector<Descriptor> found_;
};

// Returns the tag that lists the referrers of `subject` in registries without the API:
// "sha256-<hex>".
std::string ReferrersTag(const Digest& subject);

// Returns the target of the Link header with rel="next", or "". Pure.
std::string NextLink(const HttpResponse& response);

}  // namespace imagefs
