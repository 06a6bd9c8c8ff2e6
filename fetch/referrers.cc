// SPDX-License-Identifier: Apache-2.0
#include "fetch/referrers.h"

#include <utility>

#include "base/json.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
constexpr int kMaxPages = 32;
constexpr size_t kMaxReferrers = 10'000;

// Statuses of registries without the API; old ones may be behind any kind of proxy.
bool SaysMissing(int status) {
  return status == 400 || status == 404 || status == 405 || status == 406 || status == 410 ||
         status == 415 || status == 501;
}

// A registry with the API may also report an unknown repository or subject.
bool NamesTheUnknown(const HttpResponse& response) {
  const absl::StatusOr<Json> json = Json::Parse(response.body);
  if (response.status != 404 || !json.ok()) return false;
  const std::string code = (*json)["errors"].at(0).StringOr("code");
  return code == "NAME_UNKNOWN" || code == "MANIFEST_UNKNOWN";
}

std::string ContentType(const HttpResponse& response) {
  const std::string header = response.Header("content-type");
  std::string_view type = std::string_view(header).substr(0, header.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  return ToLower(type);
}

}  // namespace

std::string ReferrersTag(const Digest& subject) { return StrCat("sha256-", subject.hex()); }

std::string NextLink(const HttpResponse& response) {
  const auto [begin, end] = response.headers.equal_range("link");
  for (auto it = begin; it != end; ++it) {
    std::string_view rest = it->second;
    while (true) {
      const size_t open = rest.find('<');
      const size_t close = rest.find('>', open == std::string_view::npos ? 0 : open);
      if (open == std::string_view::npos || close == std::string_view::npos) break;
      const std::string_view target = rest.substr(open + 1, close - open - 1);
      rest.remove_prefix(close + 1);
      const std::string params = ToLower(rest.substr(0, rest.find('<')));
      if (params.find("rel=\"next\"") != std::string::npos ||
          params.find("rel=next") != std::string::npos) {
        return std::string(target);
      }
    }
  }
  return "";
}

void ReferrersRead::Run(std::shared_ptr<RegistryShared> shared,
                        std::shared_ptr<RegistryRoute> route, const Digest& subject,
                        const std::string& artifact_type, CancelToken cancel,
                        ImageSource::ReferrersDone done) {
  HttpClient& http = shared->http;
  std::shared_ptr<ReferrersRead> read(new ReferrersRead(std::move(shared), std::move(route),
                                                        subject, artifact_type, std::move(cancel),
                                                        std::move(done)));
  http.After({}, [read = std::move(read)] { read->Start(); });
}

ReferrersRead::ReferrersRead(std::shared_ptr<RegistryShared> shared,
                             std::shared_ptr<RegistryRoute> route, const Digest& subject,
                             const std::string& artifact_type, CancelToken cancel,
                             ImageSource::ReferrersDone done)
    : shared_(std::move(shared)),
      route_(std::move(route)),
      subject_(subject),
      artifact_type_(artifact_type),
      what_(StrCat("what is attached to ", route_->Name(), "@", subject.ToString())),
      cancel_(std::move(cancel)),
      done_(std::move(done)) {}

void ReferrersRead::Start() {
  using Referrers = RegistryShared::Host::Referrers;
  const Referrers known = host().referrers;
  // Mark both before either can complete.
  waiting_api_ = known != Referrers::kMissing;
  const bool ask_tag = known != Referrers::kSupported;
  if (ask_tag) QueryTag();
  if (waiting_api_) QueryApi(std::nullopt);
}

void ReferrersRead::QueryApi(std::optional<Url> page) {
  FailoverCall::What what;
  RegistryCall::Spec& spec = what.spec;
  spec.path = StrCat("referrers/", subject_.ToString());
  if (!artifact_type_.empty()) StrAppend(&spec.path, "?artifactType=", UrlEncode(artifact_type_));
  spec.url = std::move(page);
  spec.what = what_;
  spec.headers.emplace_back("Accept", kIndexType);
  spec.max_body_bytes = kMaxManifestBytes;
  spec.answers = SaysMissing;
  // A mirror that has none of this does not keep an unreachable registry from being done without.
  what.any_answer_counts = true;
  FailoverCall::Run(shared_, route_, std::move(what), cancel_,
                    [self = shared_from_this()](absl::StatusOr<HttpResponse> response) {
                      self->OnApi(std::move(response));
                    });
}

void ReferrersRead::OnApi(absl::StatusOr<HttpResponse> response) {
  if (!response.ok()) return OnApiDone(response.status());
  if (SaysMissing(response->status)) {
    if (pages_ == 0) return OnApiMissing(!NamesTheUnknown(*response));
    return OnApiDone(absl::UnavailableError(
        StrCat(what_, ": ", route_->host(), " answered for page ", pages_ + 1, " with HTTP status ",
               response->status, "; try again")));
  }
  const std::string type = ContentType(*response);
  absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(response->body, type);
  if (!parsed.ok() || !parsed->index) {
    if (type != kIndexType && pages_ == 0) return OnApiMissing(true);
    return OnApiDone(parsed.ok() ? absl::InvalidArgumentError(StrCat(what_, ": no index"))
                                 : Annotate(parsed.status(), what_));
  }
  host().referrers = RegistryShared::Host::Referrers::kSupported;
  api_answered_ = true;
  ++pages_;
  absl::Status status = Take(*parsed->index);
  if (!status.ok()) return OnApiDone(std::move(status));
  const std::string next = NextLink(*response);
  if (next.empty()) return OnApiDone(absl::OkStatus());
  if (pages_ >= kMaxPages) {
    return OnApiDone(absl::ResourceExhaustedError(
        StrCat(what_, ": more than ", kMaxPages, " pages; delete those no longer needed")));
  }
  const absl::StatusOr<Url> asked = Url::Parse(response->url);
  if (!asked.ok()) return OnApiDone(asked.status());
  absl::StatusOr<Url> page = asked->Resolve(next);
  if (!page.ok()) return OnApiDone(Annotate(page.status(), what_));
  if (!page->SameOrigin(*asked)) {
    return OnApiDone(absl::FailedPreconditionError(
        StrCat(what_, ": ", route_->host(), " continues its list at another host, ",
               page->HostPort(), ", which is not asked; check the registry's configuration")));
  }
  QueryApi(*std::move(page));
}

void ReferrersRead::OnApiMissing(bool remember) {
  RegistryShared::Host& state = host();
  if (remember && state.referrers == RegistryShared::Host::Referrers::kUnknown) {
    state.referrers = RegistryShared::Host::Referrers::kMissing;
  }
  if (!asked_tag_) QueryTag();
  OnApiDone(absl::OkStatus());
}

void ReferrersRead::OnApiDone(absl::Status status) {
  waiting_api_ = false;
  api_failure_ = std::move(status);
  FinishWhenAnswered();
}

void ReferrersRead::QueryTag() {
  waiting_tag_ = asked_tag_ = true;
  FailoverCall::What what;
  what.asks = FailoverCall::Asks::kTag;
  RegistryCall::Spec& spec = what.spec;
  spec.path = StrCat("manifests/", ReferrersTag(subject_));
  spec.what = what_;
  spec.headers.emplace_back("Accept", kIndexType);
  spec.max_body_bytes = kMaxManifestBytes;
  spec.answers = [](int status) { return status == 404; };
  // A mirror that has none of this does not keep an unreachable registry from being done without.
  what.any_answer_counts = true;
  FailoverCall::Run(shared_, route_, std::move(what), cancel_,
                    [self = shared_from_this()](absl::StatusOr<HttpResponse> response) {
                      self->OnTag(std::move(response));
                    });
}

void ReferrersRead::OnTag(absl::StatusOr<HttpResponse> response) {
  waiting_tag_ = false;
  absl::Status status = response.status();
  if (response.ok() && response->status != 404) {
    absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(response->body, ContentType(*response));
    if (!parsed.ok()) {
      status = Annotate(parsed.status(), what_);
    } else if (parsed->index) {
      status = Take(*parsed->index);
    }  // else the tag is somebody's image, which lists nothing
  }
  tag_failure_ = std::move(status);
  FinishWhenAnswered();
}

absl::Status ReferrersRead::Take(const ImageIndex& index) {
  for (const Descriptor& descriptor : index.manifests) {
    // The registry may ignore the filter, so filter here.
    if (!artifact_type_.empty() && descriptor.artifact_type != artifact_type_) continue;
    if (!seen_.insert(descriptor.digest).second) continue;
    if (found_.size() >= kMaxReferrers) {
      return absl::ResourceExhaustedError(StrCat(what_, ": more than ", kMaxReferrers,
                                                 " manifests; delete those no longer needed"));
    }
    found_.push_back(descriptor);
  }
  return absl::OkStatus();
}

void ReferrersRead::FinishWhenAnswered() {
  if (waiting_api_ || waiting_tag_) return;
  if (!api_failure_.ok()) return done_(api_failure_);
  if (!api_answered_ && !tag_failure_.ok()) return done_(tag_failure_);
  done_(std::move(found_));
}

}  // namespace imagefs
