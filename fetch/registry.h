// SPDX-License-Identifier: Apache-2.0
// An ImageSource over the distribution API of a registry (OCI distribution-spec) and its mirrors.
//
// Whole blobs of up to `range_bytes` are fetched by one plain GET; larger ones, and parts, by
// ranges in ascending order. Every byte is requested once, unless the connection to a server that
// ignores Range is interrupted.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "fetch/registry_route.h"
#include "fetch/source.h"

namespace imagefs {

// Must not be used after the HttpClient of `shared` has been destroyed.
class RegistrySource : public ImageSource {
 public:
  RegistrySource(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                 const SourceFactory::Access& access);

  std::string auth_scope() const override { return route_->auth_scope(); }
  std::string registry() const override { return route_->host(); }
  bool anonymous() const override { return anonymous_; }
  bool remote() const override { return true; }
  void GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                   ManifestDone done) override;
  void GetReferrers(const Digest& subject, const std::string& artifact_type, CancelToken cancel,
                    ReferrersDone done) override;
  void GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                    SmallBlobDone done) override;
  void LearnUrls(const Descriptor& blob) override;
  void HasBlob(const Descriptor& blob, CancelToken cancel, HasBlobDone done) override;
  void ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges, ReadOptions options,
                CancelToken cancel, BlobSink sink, BlobDone done) override;

 private:
  // Returns `blob` with its known urls.
  Descriptor WithUrls(const Descriptor& blob) const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<RegistryRoute> route_;
  const bool anonymous_;  // permanently: no credential, and no way to get one
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Digest, std::vector<std::string>> urls_ ABSL_GUARDED_BY(mu_);
};

// For pushing to the repository of `reference` with the identity in `access`. May block on local
// disk.
absl::StatusOr<std::shared_ptr<RegistryWriter>> MakeRegistryWriter(
    std::shared_ptr<RegistryShared> shared, const Reference& reference,
    const SourceFactory::Access& access);

// Whether `text` may follow manifests/ in a path.
bool IsTagOrDigest(std::string_view text);

// Parses "bytes 0-9/100". Pure.
struct ContentRange {
  uint64_t begin = 0;
  uint64_t end = 0;               // one past the last byte
  std::optional<uint64_t> total;  // absent for "*"
};
std::optional<ContentRange> ParseContentRange(std::string_view header);

}  // namespace imagefs
