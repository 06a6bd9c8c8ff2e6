// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry.h"

#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "fetch/blob_read.h"
#include "fetch/failover_call.h"
#include "fetch/referrers.h"

namespace imagefs {
namespace {

constexpr size_t kMaxLearned = 4 * kMaxLayers;
// A registry that takes connections and says nothing for that long is asked again, or another one.
constexpr std::chrono::milliseconds kManifestSilence(10'000);
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

// Reads a blob into memory. Wrong bytes of one endpoint are read again from another.
struct SmallBlobRead {
  std::shared_ptr<RegistryShared> shared;
  std::shared_ptr<RegistryRoute> route;
  Descriptor blob;
  std::string what;
  CancelToken cancel;
  ImageSource::SmallBlobDone done;

  static void Start(std::shared_ptr<SmallBlobRead> read, bool anew) {
    // Ranges of a blob may arrive out of order.
    auto bytes = std::make_shared<std::string>(read->blob.size, '\0');
    RangeSet all;
    if (read->blob.size > 0) all.Add({0, read->blob.size});
    ImageSource::ReadOptions options(nullptr);
    options.anew = anew;
    BlobRead::Run(
        read->shared, read->route, {read->blob, std::move(all), options, /*in_memory=*/true},
        read->cancel,
        [bytes](uint64_t offset, std::string_view data) {
          bytes->replace(offset, data.size(), data);
          return absl::OkStatus();
        },
        [read, bytes, anew](const absl::Status& status) {
          absl::StatusOr<std::string> result =
              status.ok() ? absl::StatusOr<std::string>(std::move(*bytes)) : status;
          GoOn(*read->shared, read->cancel, std::move(result),
               [read, anew](absl::StatusOr<std::string> end) {
                 OnBytes(read, anew, std::move(end));
               });
        });
  }

  static void OnBytes(const std::shared_ptr<SmallBlobRead>& read, bool anew,
                      absl::StatusOr<std::string> bytes) {
    if (!bytes.ok() || Sha256Of(*bytes) == read->blob.digest) return read->done(std::move(bytes));
    absl::Status wrong = absl::DataLossError(
        StrCat(read->what,
               ": its bytes do not have its digest; check the registry and everything in between"));
    if (anew) return read->done(std::move(wrong));
    const bool posted = read->shared->Post([read, wrong] {
      if (read->route->endpoints().size() > 1) return Start(read, /*anew=*/true);
      GoOn(*read->shared, read->cancel, absl::StatusOr<std::string>(wrong),
           [read](absl::StatusOr<std::string> end) { read->done(std::move(end)); });
    });
    if (!posted) read->done(std::move(wrong));
  }
};

}  // namespace

bool IsTagOrDigest(std::string_view text) {
  if (text.empty() || text.size() > 256) return false;
  for (char c : text) {
    const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!word && c != '_' && c != '.' && c != '-' && c != ':') return false;
  }
  return text != "." && text != "..";
}

RegistrySource::RegistrySource(std::shared_ptr<RegistryShared> shared,
                               std::shared_ptr<RegistryRoute> route,
                               const SourceFactory::Access& access)
    : shared_(std::move(shared)),
      route_(std::move(route)),
      anonymous_(access.credential.empty() && !access.refresh) {}

void RegistrySource::GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                                 ManifestDone done) {
  if (!IsTagOrDigest(tag_or_digest)) {
    return done(absl::InvalidArgumentError(
        StrCat("\"", Printable(tag_or_digest), "\" is neither a tag nor a digest")));
  }
  const bool by_digest = tag_or_digest.find(':') != std::string::npos;
  FailoverCall::What what;
  what.asks = by_digest ? FailoverCall::Asks::kContents : FailoverCall::Asks::kTag;
  what.spec = ManifestSpec("GET", route_->Name(), tag_or_digest);
  for (const char* type : kAccepted) what.spec.headers.emplace_back("Accept", type);
  what.spec.max_body_bytes = kMaxManifestBytes;
  what.spec.stall_timeout = kManifestSilence;
  what.check = [name = what.spec.what, tag_or_digest](const HttpResponse& response) {
    return CheckManifest(name, tag_or_digest, response).status();
  };
  auto take = [name = what.spec.what, tag_or_digest,
               done = std::move(done)](absl::StatusOr<HttpResponse> response) mutable {
    if (!response.ok()) return done(response.status());
    done(CheckManifest(name, tag_or_digest, *std::move(response)));
  };
  FailoverCall::Run(shared_, route_, std::move(what), cancel,
                    [shared = shared_, cancel,
                     take = std::move(take)](absl::StatusOr<HttpResponse> response) mutable {
                      GoOn(*shared, cancel, std::move(response), std::move(take));
                    });
}

void RegistrySource::GetReferrers(const Digest& subject, const std::string& artifact_type,
                                  CancelToken cancel, ReferrersDone done) {
  ReferrersRead::Run(shared_, route_, subject, artifact_type, cancel,
                     [shared = shared_, cancel, done = std::move(done)](
                         absl::StatusOr<std::vector<Descriptor>> referrers) mutable {
                       GoOn(*shared, cancel, std::move(referrers), std::move(done));
                     });
}

void RegistrySource::GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                                  SmallBlobDone done) {
  const std::string what = StrCat("blob ", blob.digest.Short(), " of ", route_->Name());
  if (blob.size > max_bytes) {
    return done(absl::InvalidArgumentError(
        StrCat(what, " has ", blob.size, " bytes, more than the allowed ", max_bytes)));
  }
  auto read = std::make_shared<SmallBlobRead>(
      SmallBlobRead{shared_, route_, blob, what, cancel, std::move(done)});
  SmallBlobRead::Start(std::move(read), /*anew=*/false);
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
  FailoverCall::What what;
  what.spec.method = "HEAD";
  what.spec.path = StrCat("blobs/", blob.digest.ToString());
  what.spec.what = StrCat("blob ", blob.digest.Short(), " of ", route_->Name());
  what.spec.answers = [](int status) { return status == 404; };
  what.spec.redirect_answers = true;
  auto look = [size = blob.size,
               done = std::move(done)](absl::StatusOr<HttpResponse> response) mutable {
    if (!response.ok()) return done(response.status());
    const std::string length = response->Header("content-length");
    const bool other_size =
        response->status == 200 && !length.empty() && ParseDecimal(length).value_or(size) != size;
    done(response->status != 404 && !other_size);
  };
  FailoverCall::Run(shared_, route_, std::move(what), cancel,
                    [shared = shared_, cancel,
                     look = std::move(look)](absl::StatusOr<HttpResponse> response) mutable {
                      GoOn(*shared, cancel, std::move(response), std::move(look));
                    });
}

void RegistrySource::ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges,
                              ReadOptions options, CancelToken cancel, BlobSink sink,
                              BlobDone done) {
  absl::StatusOr<RangeSet> wanted = UnionOf(blob, ranges);
  if (!wanted.ok()) return done(Annotate(wanted.status(), route_->host()));
  BlobRead::Run(shared_, route_, {WithUrls(blob), *std::move(wanted), std::move(options)},
                std::move(cancel), std::move(sink), std::move(done));
}

}  // namespace imagefs
