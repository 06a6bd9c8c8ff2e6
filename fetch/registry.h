// An ImageSource over the distribution API of a registry (OCI distribution-spec).
//
// Whole blobs that are not larger than `range_bytes` are fetched by one plain GET; larger ones, and
// parts, by ranges in ascending order. Every byte is asked for once, unless a connection is cut in
// the middle of a server that ignores Range.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "fetch/registry_call.h"
#include "fetch/source.h"

namespace imagefs {

// Must not be used after the HttpClient of `shared` is gone.
class RegistrySource : public ImageSource {
 public:
  RegistrySource(std::shared_ptr<RegistryShared> shared, const Reference& reference,
                 const SourceFactory::Access& access);

  std::string auth_scope() const override { return endpoint_->auth_scope; }
  std::string registry() const override { return endpoint_->host; }
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
  // `blob` with the urls that are known of it.
  Descriptor WithUrls(const Descriptor& blob) const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const bool anonymous_;  // and stays so: there is nothing that could renew it
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Digest, std::vector<std::string>> urls_ ABSL_GUARDED_BY(mu_);
};

// The one repository with the one identity of `reference` and `access`, to be read.
std::shared_ptr<RegistryEndpoint> MakeRegistryEndpoint(const Reference& reference,
                                                       const SourceFactory::Access& access);

// The same to push to.
std::shared_ptr<RegistryWriter> MakeRegistryWriter(std::shared_ptr<RegistryShared> shared,
                                                   const Reference& reference,
                                                   const SourceFactory::Access& access);

// What may stand in a path after manifests/.
bool IsTagOrDigest(std::string_view text);

// "bytes 0-9/100". Pure.
struct ContentRange {
  uint64_t begin = 0;
  uint64_t end = 0;               // one past the last byte
  std::optional<uint64_t> total;  // absent for "*"
};
std::optional<ContentRange> ParseContentRange(std::string_view header);

}  // namespace imagefs
