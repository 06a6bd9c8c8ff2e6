// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry.h"

#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "fetch/blob_read.h"
#include "fetch/referrers.h"

namespace imagefs {
namespace {

constexpr size_t kMaxLearned = 4 * kMaxLayers;
// One line each: old registries (distribution up to 2.5) compare the whole line.
constexpr const char* kAccepted[] = {"application/vnd.oci.image.index.v1+json",
                                     "application/vnd.oci.image.manifest.v1+json",
                                     "application/vnd.docker.distribution.manifest.list.v2+json",
                                     "application/vnd.docker.distribution.manifest.v2+json"};

absl::StatusOr<ImageSource::FetchedManifest> CheckManifest(const std::string& what,
                                                           const std::string& tag_or_digest,
                                                           HttpResponse response) {
  ImageSource::FetchedManifest manifest;
  manifest.digest = Sha256Of(response.body);
  const absl::StatusOr<Digest> wanted = Digest::Parse(tag_or_digest);
  const absl::StatusOr<Digest> announced = Digest::Parse(response.Header("docker-content-digest"));
  if ((wanted.ok() && *wanted != manifest.digest) ||
      (announced.ok() && *announced != manifest.digest)) {
    return absl::DataLossError(StrCat(what, ": the bytes of the manifest have digest ",
                                      manifest.digest.ToString(), " and not ",
                                      wanted.ok() ? wanted->ToString() : announced->ToString(),
                                      "; check the registry and everything in between"));
  }
  std::string_view type = response.headers.contains("content-type")
                              ? std::string_view(response.headers.find("content-type")->second)
                              : std::string_view();
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  manifest.content_type = ToLower(type);
  manifest.bytes = std::move(response.body);
  return manifest;
}

// Continues with an answer on a thread that may block. Delivers kCancelled if cancelled meanwhile,
// so that the caller stops.
template <typename T, typename Next>
void GoOn(RegistryShared& shared, CancelToken cancel, absl::StatusOr<T> answer, Next next) {
  shared.answers.Submit(
      [cancel = std::move(cancel), answer = std::move(answer), next = std::move(next)]() mutable {
        if (cancel.cancelled()) answer = absl::CancelledError("request cancelled");
        next(std::move(answer));
      });
}

}  // namespace

std::shared_ptr<RegistryEndpoint> MakeRegistryEndpoint(const Reference& reference,
                                                       const SourceFactory::Access& access) {
  auto endpoint = std::make_shared<RegistryEndpoint>();
  endpoint->host = reference.host;
  endpoint->api_host = reference.ApiHost();
  endpoint->repository = reference.repository;
  endpoint->identity = std::make_shared<EndpointIdentity>(access.credential, access.refresh);
  endpoint->auth_scope =
      StrCat(reference.host, "/", reference.repository, " ", endpoint->identity->fingerprint());
  endpoint->credential_trouble = access.credential_trouble;
  endpoint->loopback = reference.IsLoopback();
  endpoint->plain_http = access.plain_http;
  endpoint->verify_tls = access.verify_tls;
  return endpoint;
}

bool IsTagOrDigest(std::string_view text) {
  if (text.empty() || text.size() > 256) return false;
  for (char c : text) {
    const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!word && c != '_' && c != '.' && c != '-' && c != ':') return false;
  }
  return text != "." && text != "..";
}

RegistrySource::RegistrySource(std::shared_ptr<RegistryShared> shared, const Reference& reference,
                               const SourceFactory::Access& access)
    : shared_(std::move(shared)),
      endpoint_(MakeRegistryEndpoint(reference, access)),
      anonymous_(access.credential.empty() && !access.refresh) {}

void RegistrySource::GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                                 ManifestDone done) {
  if (!IsTagOrDigest(tag_or_digest)) {
    return done(absl::InvalidArgumentError(
        StrCat("\"", Printable(tag_or_digest), "\" is neither a tag nor a digest")));
  }
  RegistryCall::Spec spec;
  spec.path = StrCat("/v2/", endpoint_->repository, "/manifests/", tag_or_digest);
  spec.what = StrCat(endpoint_->host, "/", endpoint_->repository,
                     tag_or_digest.find(':') == std::string::npos ? ":" : "@", tag_or_digest);
  for (const char* type : kAccepted) spec.headers.emplace_back("Accept", type);
  spec.max_body_bytes = kMaxManifestBytes;
  const std::string what = spec.what;
  auto check = [what, tag_or_digest,
                done = std::move(done)](absl::StatusOr<HttpResponse> response) mutable {
    if (!response.ok()) return done(response.status());
    done(CheckManifest(what, tag_or_digest, *std::move(response)));
  };
  RegistryCall::Run(shared_, endpoint_, std::move(spec), cancel,
                    [shared = shared_, cancel,
                     check = std::move(check)](absl::StatusOr<HttpResponse> response) mutable {
                      GoOn(*shared, cancel, std::move(response), std::move(check));
                    });
}

void RegistrySource::GetReferrers(const Digest& subject, const std::string& artifact_type,
                                  CancelToken cancel, ReferrersDone done) {
  ReferrersRead::Run(shared_, endpoint_, subject, artifact_type, cancel,
                     [shared = shared_, cancel, done = std::move(done)](
                         absl::StatusOr<std::vector<Descriptor>> referrers) mutable {
                       GoOn(*shared, cancel, std::move(referrers), std::move(done));
                     });
}

void RegistrySource::GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                                  SmallBlobDone done) {
  const std::string what =
      StrCat("blob ", blob.digest.Short(), " of ", endpoint_->host, "/", endpoint_->repository);
  if (blob.size > max_bytes) {
    return done(absl::InvalidArgumentError(
        StrCat(what, " has ", blob.size, " bytes, more than the allowed ", max_bytes)));
  }
  // Ranges of a blob may arrive out of order.
  auto bytes = std::make_shared<std::string>(blob.size, '\0');
  RangeSet all;
  if (blob.size > 0) all.Add({0, blob.size});
  auto check = [what, digest = blob.digest,
                done = std::move(done)](absl::StatusOr<std::string> bytes) mutable {
    if (bytes.ok() && Sha256Of(*bytes) != digest) {
      bytes = absl::DataLossError(StrCat(
          what,
          ": its bytes do not have its digest; check the registry and everything in between"));
    }
    done(std::move(bytes));
  };
  BlobRead::Run(
      shared_, endpoint_, {blob, std::move(all), nullptr, /*in_memory=*/true}, cancel,
      [bytes](uint64_t offset, std::string_view data) {
        bytes->replace(offset, data.size(), data);
        return absl::OkStatus();
      },
      [shared = shared_, cancel, bytes,
       check = std::move(check)](const absl::Status& status) mutable {
        GoOn(*shared, cancel, status.ok() ? absl::StatusOr<std::string>(std::move(*bytes)) : status,
             std::move(check));
      });
}

void RegistrySource::LearnUrls(const Descriptor& blob) {
  if (blob.urls.empty()) return;
  absl::MutexLock lock(&mu_);
  if (urls_.size() >= kMaxLearned) urls_.clear();
  urls_[blob.digest] = blob.urls;
}

Descriptor RegistrySource::WithUrls(const Descriptor& blob) const {
  Descriptor out = blob;
  if (!out.urls.empty()) return out;
  absl::MutexLock lock(&mu_);
  if (const auto it = urls_.find(blob.digest); it != urls_.end()) out.urls = it->second;
  return out;
}

void RegistrySource::HasBlob(const Descriptor& blob, CancelToken cancel, HasBlobDone done) {
  RegistryCall::Spec spec;
  spec.method = "HEAD";
  spec.path = StrCat("/v2/", endpoint_->repository, "/blobs/", blob.digest.ToString());
  spec.what =
      StrCat("blob ", blob.digest.Short(), " of ", endpoint_->host, "/", endpoint_->repository);
  spec.answers = [](int status) { return status == 404; };
  spec.redirect_answers = true;
  auto look = [size = blob.size,
               done = std::move(done)](absl::StatusOr<HttpResponse> response) mutable {
    if (!response.ok()) return done(response.status());
    const std::string length = response->Header("content-length");
    const bool other_size =
        response->status == 200 && !length.empty() && ParseDecimal(length).value_or(size) != size;
    done(response->status != 404 && !other_size);
  };
  RegistryCall::Run(shared_, endpoint_, std::move(spec), cancel,
                    [shared = shared_, cancel,
                     look = std::move(look)](absl::StatusOr<HttpResponse> response) mutable {
                      GoOn(*shared, cancel, std::move(response), std::move(look));
                    });
}

void RegistrySource::ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges,
                              ReadOptions options, CancelToken cancel, BlobSink sink,
                              BlobDone done) {
  absl::StatusOr<RangeSet> wanted = UnionOf(blob, ranges);
  if (!wanted.ok()) return done(Annotate(wanted.status(), endpoint_->host));
  BlobRead::Run(shared_, endpoint_, {WithUrls(blob), *std::move(wanted), std::move(options)},
                std::move(cancel), std::move(sink), std::move(done));
}

}  // namespace imagefs
