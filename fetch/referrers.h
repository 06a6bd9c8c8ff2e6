// What is attached to a manifest: one question to the referrers API (distribution-spec 1.1), in
// pages, and to the tag sha256-<hex> by which registries without that API keep the list. On the
// HTTP client's thread.
//
// Whether a host has the API is remembered with the host. As long as that is unknown both places
// are asked at the same time, for the price of one round trip, and what both say is merged; later
// questions go to one place.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "fetch/registry_call.h"
#include "fetch/source.h"

namespace imagefs {

class ReferrersRead : public std::enable_shared_from_this<ReferrersRead> {
 public:
  // From any thread.
  static void Run(std::shared_ptr<RegistryShared> shared,
                  std::shared_ptr<const RegistryEndpoint> endpoint, const Digest& subject,
                  const std::string& artifact_type, CancelToken cancel,
                  ImageSource::ReferrersDone done);

 private:
  ReferrersRead(std::shared_ptr<RegistryShared> shared,
                std::shared_ptr<const RegistryEndpoint> endpoint, const Digest& subject,
                const std::string& artifact_type, CancelToken cancel,
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
  RegistryShared::Host& host() { return shared_->HostState(endpoint_->api_host); }

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const Digest subject_;
  const std::string artifact_type_;
  const std::string what_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<std::vector<Descriptor>>> done_;

  bool waiting_api_ = false, waiting_tag_ = false;
  bool asked_tag_ = false;
  int pages_ = 0;
  bool api_answered_ = false;  // then a failure of the tag does not matter
  absl::Status api_failure_, tag_failure_;
  absl::flat_hash_set<Digest> seen_;
  std::vector<Descriptor> found_;
};

// The tag that lists what is attached to `subject` where a registry does not: "sha256-<hex>".
std::string ReferrersTag(const Digest& subject);

// Where the Link header with rel="next" points, "" without one. Pure.
std::string NextLink(const HttpResponse& response);

}  // namespace imagefs
