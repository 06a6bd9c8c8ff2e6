// SPDX-License-Identifier: Apache-2.0
#include "fetch/referrers_tag.h"

#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "fetch/backoff.h"
#include "fetch/referrers.h"
#include "fetch/registry_writer.h"

namespace imagefs {
namespace {

constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
// Writers that lose a race retry after a random delay, so few rounds are needed.
constexpr int kMaxRounds = 8;
// A pause is that many first delays between retries: longer than others take from reading the list
// to writing it.
constexpr int kPause = 5;

// A registry or proxy that has something against conditions, and not against the list.
bool RefusesConditions(int status) { return status == 400 || status == 501; }

}  // namespace

void ReferrersTagUpdate::Run(std::shared_ptr<RegistryShared> shared,
                             std::shared_ptr<const RegistryEndpoint> endpoint,
                             const Digest& subject, Descriptor entry, CancelToken cancel,
                             Done done) {
  auto update = absl::WrapUnique(new ReferrersTagUpdate(std::move(shared), std::move(endpoint),
                                                        subject, std::move(entry),
                                                        std::move(cancel), std::move(done)));
  std::shared_ptr<ReferrersTagUpdate>(std::move(update))->Read();
}

ReferrersTagUpdate::ReferrersTagUpdate(std::shared_ptr<RegistryShared> shared,
                                       std::shared_ptr<const RegistryEndpoint> endpoint,
                                       const Digest& subject, Descriptor entry, CancelToken cancel,
                                       Done done)
    : shared_(std::move(shared)),
      endpoint_(std::move(endpoint)),
      tag_(ReferrersTag(subject)),
      entry_(std::move(entry)),
      cancel_(std::move(cancel)),
      done_(std::move(done)) {}

void ReferrersTagUpdate::Call(RegistryCall::Spec spec,
                              void (ReferrersTagUpdate::*then)(HttpResponse)) {
  RegistryCall::Run(shared_, endpoint_, std::move(spec), cancel_,
                    [self = shared_from_this(), then](absl::StatusOr<HttpResponse> response) {
                      if (!response.ok()) return self->Finish(response.status());
                      ((*self).*then)(*std::move(response));
                    });
}

void ReferrersTagUpdate::After(int pauses, void (ReferrersTagUpdate::*then)()) {
  const auto delay = BackoffDelay(kPause * shared_->options.first_backoff, pauses);
  shared_->http.After(delay, [self = shared_from_this(), then] {
    if (self->cancel_.cancelled()) return self->Finish(absl::CancelledError("push cancelled"));
    ((*self).*then)();
  });
}

void ReferrersTagUpdate::Read() {
  RegistryCall::Spec spec = ManifestSpec("GET", endpoint_->RepositoryName(), tag_);
  spec.headers.emplace_back("Accept", kIndexType);
  // Not what a cache remembers.
  spec.headers.emplace_back("Cache-Control", "no-cache");
  spec.max_body_bytes = kMaxManifestBytes;
  spec.answers = [](int status) { return status == 404; };
  Call(std::move(spec), &ReferrersTagUpdate::OnList);
}

void ReferrersTagUpdate::OnList(HttpResponse response) {
  exists_ = response.status != 404;
  etag_ = exists_ ? response.Header("etag") : "";
  list_ = exists_ ? std::move(response.body) : "";
  Note(list_);
  std::vector<std::string> missing;
  bool unchecked = false;
  for (const auto& [digest, seen] : others_) {
    if (seen.listed) continue;
    missing.push_back(seen.json);
    unchecked |= !seen.there;
  }
  absl::StatusOr<std::string> updated = UpdateReferrersIndex(list_, entry_, missing);
  if (!updated.ok()) return Finish(updated.status());
  if (*updated != list_) {
    seen_once_ = false;
    if (!may_write_ || unchecked) return Again();
    return Write(*std::move(updated));
  }
  if (!written_ || seen_once_) return Finish(absl::OkStatus());
  seen_once_ = true;
  After(1, &ReferrersTagUpdate::Read);
}

void ReferrersTagUpdate::Note(const std::string& list) {
  for (auto& [digest, seen] : others_) seen.listed = false;
  const absl::StatusOr<Json> json = Json::Parse(list);
  if (!json.ok()) return;
  for (const Json& element : (*json)["manifests"].elements()) {
    const absl::StatusOr<Digest> digest = Digest::Parse(element.StringOr("digest"));
    if (digest.ok() && *digest != entry_.digest) {
      others_[digest->ToString()] = {element.Dump(), element.StringOr("mediaType", "*/*"),
                                     /*listed=*/true, /*there=*/false};
    }
  }
}

void ReferrersTagUpdate::Write(std::string list) {
  if (list.size() > kMaxManifestBytes) {
    return Finish(absl::ResourceExhaustedError(
        StrCat("the list under the tag ", tag_, " would have ", list.size(),
               " bytes; registries take at most ", kMaxManifestBytes)));
  }
  may_write_ = false;
  RegistryCall::Spec spec = ManifestSpec("PUT", endpoint_->RepositoryName(), tag_);
  spec.headers.emplace_back("Content-Type", kIndexType);
  // A weak one never matches.
  const bool strong = etag_.starts_with('"');
  const bool condition = conditional_ && (strong || !exists_);
  if (condition && exists_) spec.headers.emplace_back("If-Match", etag_);
  if (condition && !exists_) spec.headers.emplace_back("If-None-Match", "*");
  spec.body = [list = std::move(list)]() -> absl::StatusOr<std::string> { return list; };
  spec.answers = [condition](int status) {
    return status == 201 || status == 202 || status == 204 ||
           (condition && (status == 412 || RefusesConditions(status)));
  };
  spec.stall_timeout = std::chrono::milliseconds(120'000);
  Call(std::move(spec), &ReferrersTagUpdate::OnWritten);
}

void ReferrersTagUpdate::OnWritten(HttpResponse response) {
  if (RefusesConditions(response.status)) {
    conditional_ = false;
    may_write_ = true;
    return Read();
  }
  if (response.status == 412) {
    // If it has not changed, what is said of its ETag is wrong: a proxy may have changed that.
    if (refused_ == list_) conditional_ = false;
    refused_ = list_;
    return Again();
  }
  written_ = true;
  Read();
}

void ReferrersTagUpdate::Again() {
  if (++rounds_ >= kMaxRounds) {
    return Finish(absl::UnavailableError(
        StrCat("others keep writing the tag ", tag_, " at the same time; try again")));
  }
  LogDebug("registry_tag_race host=", endpoint_->host, " tag=", tag_, " round=", rounds_);
  After(rounds_, &ReferrersTagUpdate::CheckVanished);
}

void ReferrersTagUpdate::CheckVanished() {
  vanished_.clear();
  for (const auto& [digest, seen] : others_) {
    if (!seen.listed) vanished_.push_back(digest);
  }
  CheckNext();
}

void ReferrersTagUpdate::CheckNext() {
  if (vanished_.empty()) {
    // The list may have changed during the pause.
    may_write_ = true;
    return Read();
  }
  RegistryCall::Spec spec = ManifestSpec("HEAD", endpoint_->RepositoryName(), vanished_.front());
  spec.headers.emplace_back("Accept", others_[vanished_.front()].media_type);
  spec.answers = [](int status) { return status == 404; };
  RegistryCall::Run(shared_, endpoint_, std::move(spec), cancel_,
                    [self = shared_from_this()](const absl::StatusOr<HttpResponse>& response) {
                      self->OnChecked(response);
                    });
}

void ReferrersTagUpdate::OnChecked(const absl::StatusOr<HttpResponse>& response) {
  if (cancel_.cancelled()) return Finish(absl::CancelledError("push cancelled"));
  if (response.ok() && response->status == 404) {
    others_.erase(vanished_.front());
  } else {
    // Also if that cannot be found out: an entry too many does no harm.
    others_[vanished_.front()].there = true;
    LogInfo("registry_tag_restored host=", endpoint_->host, " tag=", tag_,
            " entry=", vanished_.front());
  }
  vanished_.pop_front();
  CheckNext();
}

void ReferrersTagUpdate::Finish(absl::Status status) { done_(std::move(status)); }

}  // namespace imagefs
