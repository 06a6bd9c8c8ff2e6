// SPDX-License-Identifier: Apache-2.0
#include "fetch/blob_push.h"

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/backoff.h"

namespace imagefs {
namespace {

// A chunk is kept in memory while it is sent.
constexpr uint64_t kMaxChunkBytes = 256 << 20;
// A registry computes the digest of the whole blob before it responds.
constexpr std::chrono::milliseconds kEndTimeout(300'000);
constexpr std::chrono::milliseconds kChunkTimeout(60'000);

std::function<bool(int)> AnyOf(std::initializer_list<int> statuses) {
  return [list = std::vector<int>(statuses)](int status) {
    return std::find(list.begin(), list.end(), status) != list.end();
  };
}

// Parses "0-99", which some registries prefix with "bytes=", into the number of uploaded bytes;
// nullopt if the header is unusable.
std::optional<uint64_t> UploadedBytes(std::string_view header) {
  ConsumePrefix(&header, "bytes");
  while (ConsumePrefix(&header, "=") || ConsumePrefix(&header, " ")) {
  }
  const size_t dash = header.find('-');
  if (dash == std::string_view::npos || header.substr(0, dash) != "0") return std::nullopt;
  const std::optional<uint64_t> last = ParseDecimal(header.substr(dash + 1));
  if (!last || *last == UINT64_MAX) return std::nullopt;
  // No header can express "nothing", so registries use 0-0 for that as well. At worst, one byte is
  // sent twice.
  return *last == 0 ? 0 : *last + 1;
}

// The registry may have taken a part, and the call was not repeated (Spec::resend_after_cut).
bool EndedMidway(const absl::Status& failure) {
  const TransportFailure kind = TransportFailureOf(failure);
  return kind == TransportFailure::kCut || kind == TransportFailure::kStalled;
}

}  // namespace

void BlobPush::Run(std::shared_ptr<RegistryShared> shared,
                   std::shared_ptr<const RegistryEndpoint> endpoint, RegistryWriter::Blob blob,
                   CancelToken cancel, RegistryWriter::BlobDone done) {
  HttpClient& http = shared->http;
  std::shared_ptr<BlobPush> push(new BlobPush(std::move(shared), std::move(endpoint),
                                              std::move(blob), std::move(cancel), std::move(done)));
  http.After({}, [push = std::move(push)] {
    // Ends waits for the next attempt; requests observe the token themselves.
    push->registration_ =
        OnCancelAt(push->shared_->http, push->cancel_, [weak = std::weak_ptr(push)] {
          if (const auto self = weak.lock()) self->Finish(absl::CancelledError("push cancelled"));
        });
    push->Ask();
  });
}

BlobPush::BlobPush(std::shared_ptr<RegistryShared> shared,
                   std::shared_ptr<const RegistryEndpoint> endpoint, RegistryWriter::Blob blob,
                   CancelToken cancel, RegistryWriter::BlobDone done)
    : shared_(std::move(shared)),
      endpoint_(std::move(endpoint)),
      blob_(std::move(blob)),
      what_(StrCat("blob ", blob_.digest.Short(), " for ", endpoint_->RepositoryName())),
      cancel_(std::move(cancel)),
      done_(std::move(done)),
      chunk_bytes_(std::max<uint64_t>(1, shared_->options.push_chunk_bytes)) {}

RegistryCall::Spec BlobPush::NewSpec(std::string method) const {
  RegistryCall::Spec spec;
  spec.method = std::move(method);
  spec.path = "blobs/uploads/";
  spec.what = what_;
  return spec;
}

void BlobPush::Call(std::shared_ptr<const RegistryEndpoint> endpoint, RegistryCall::Spec spec,
                    OnAnswer on_answer) {
  RegistryCall::Run(shared_, std::move(endpoint), std::move(spec), cancel_,
                    [self = shared_from_this(), on_answer](absl::StatusOr<HttpResponse> response) {
                      if (self->done_.called()) return;
                      ((*self).*on_answer)(std::move(response));
                    });
}

void BlobPush::Ask() {
  if (done_.called()) return;
  location_.reset();
  at_ = 0;
  RegistryCall::Spec spec = NewSpec("HEAD");
  spec.path = StrCat("blobs/", blob_.digest.ToString());
  spec.answers = AnyOf({404, 405});
  Call(endpoint_, std::move(spec), &BlobPush::OnAsked);
}

void BlobPush::OnAsked(absl::StatusOr<HttpResponse> response) {
  if (!response.ok() && (IsCredentialFailure(response.status()) || IsRetriable(response.status()) ||
                         absl::IsResourceExhausted(response.status()))) {
    return Finish(response.status());
  }
  // Ignore any other failure: storage that HEAD was redirected to may reject that method.
  if (response.ok() && response->status == 200) {
    const std::optional<uint64_t> size = ParseDecimal(response->Header("content-length"));
    if (!size || *size == blob_.size) return Finish(RegistryWriter::PushedBlob{sent_, false});
  }
  if (!blob_.from.empty() && !mount_tried_) return StartMount();
  StartUpload();
}

void BlobPush::StartMount() {
  mount_tried_ = true;
  // The endpoint's auth scope differs, so that a token that also covers the other repository is
  // kept apart.
  auto endpoint = std::make_shared<RegistryEndpoint>(*endpoint_);
  StrAppend(&endpoint->auth_scope, " mount ", blob_.from);
  StrAppend(&endpoint->scope, " repository:", blob_.from, ":pull");
  RegistryCall::Spec spec = NewSpec("POST");
  StrAppend(&spec.path, "?mount=", UrlEncode(blob_.digest.ToString()),
            "&from=", UrlEncode(blob_.from));
  spec.answers = AnyOf({201, 202});
  Call(std::move(endpoint), std::move(spec), &BlobPush::OnMount);
}

void BlobPush::OnMount(absl::StatusOr<HttpResponse> response) {
  if (!response.ok()) {
    if (absl::IsCancelled(response.status())) return Finish(response.status());
    // It was only an optimization.
    LogDebug("registry_mount host=", endpoint_->host, " cause=", response.status().message());
    return StartUpload();
  }
  if (response->status == 201) return Finish(RegistryWriter::PushedBlob{sent_, true});
  OnUpload(std::move(response));
}

void BlobPush::StartUpload() {
  RegistryCall::Spec spec = NewSpec("POST");
  spec.answers = AnyOf({202});
  Call(endpoint_, std::move(spec), &BlobPush::OnUpload);
}

void BlobPush::OnUpload(absl::StatusOr<HttpResponse> response) {
  if (!response.ok()) return Finish(response.status());
  if (response->Header("location").empty()) {
    return Finish(absl::FailedPreconditionError(
        StrCat(what_, ": ", endpoint_->host,
               " begins an upload without saying where; check the registry's configuration")));
  }
  if (absl::Status status = TakeLocation(*response); !status.ok()) return Finish(status);
  if (const auto least = ParseDecimal(response->Header("oci-chunk-min-length"))) {
    if (*least > kMaxChunkBytes && blob_.size > kMaxChunkBytes) {
      return Finish(absl::FailedPreconditionError(
          StrCat(what_, ": ", endpoint_->host, " accepts no chunks below ", *least,
                 " bytes; use another registry by --to REPOSITORY")));
    }
    chunk_bytes_ = std::max(chunk_bytes_, *least);
  }
  Continue();
}

void BlobPush::Continue() {
  if (done_.called()) return;
  // A blob that fits into one chunk takes a single request.
  if (blob_.size > chunk_bytes_ && at_ < blob_.size) return SendChunk();
  SendEnd();
}

std::function<absl::StatusOr<std::string>()> BlobPush::Bytes(uint64_t begin, uint64_t end) {
  return [self = shared_from_this(), begin, end]() -> absl::StatusOr<std::string> {
    if (begin == end) return std::string();
    IMAGEFS_ASSIGN_OR_RETURN(std::string bytes, self->blob_.bytes(begin, end - begin));
    if (bytes.size() != end - begin) {
      return absl::DataLossError(
          StrCat("it has ended at byte ", begin + bytes.size(), " of ", self->blob_.size));
    }
    self->sent_ += bytes.size();
    return bytes;
  };
}

void BlobPush::SendChunk() {
  chunk_end_ = std::min(blob_.size, at_ + chunk_bytes_);
  RegistryCall::Spec spec = NewSpec("PATCH");
  spec.url = location_;
  spec.headers = {{"Content-Type", "application/octet-stream"},
                  {"Content-Range", StrCat(at_, "-", chunk_end_ - 1)}};
  spec.body = Bytes(at_, chunk_end_);
  spec.answers = AnyOf({201, 202, 204, 404, 416});
  spec.resend_after_cut = false;
  spec.stall_timeout = kChunkTimeout;
  Call(endpoint_, std::move(spec), &BlobPush::OnChunk);
}

void BlobPush::OnChunk(absl::StatusOr<HttpResponse> response) {
  if (!response.ok()) {
    if (!EndedMidway(response.status())) return Finish(response.status());
    return Again(Annotate(response.status(), what_), &BlobPush::QueryOffset);
  }
  const absl::Status lost = absl::UnavailableError(
      StrCat(what_, ": ", endpoint_->host, " has lost the upload; try again"));
  if (response->status == 404) return Again(lost, &BlobPush::Ask);
  if (response->status == 416) return Again(lost, &BlobPush::QueryOffset);
  absl::Status status = TakeLocation(*response);
  if (status.ok()) status = TakeProgress(response->Header("range"), chunk_end_);
  if (!status.ok()) return Finish(status);
  if (at_ < chunk_end_) {
    return Again(absl::UnavailableError(StrCat(what_, ": ", endpoint_->host, " has taken ", at_,
                                               " bytes of ", chunk_end_, "; try again")),
                 &BlobPush::Continue);
  }
  Continue();
}

void BlobPush::QueryOffset() {
  if (done_.called()) return;
  RegistryCall::Spec spec = NewSpec("GET");
  spec.url = location_;
  spec.answers = AnyOf({202, 204, 400, 404, 405, 410, 416});
  Call(endpoint_, std::move(spec), &BlobPush::OnHowFar);
}

void BlobPush::OnHowFar(absl::StatusOr<HttpResponse> response) {
  if (!response.ok()) return Finish(response.status());
  const bool known = response->status == 204 || response->status == 200 || response->status == 202;
  const uint64_t before = at_;
  absl::Status status = TakeLocation(*response);
  if (!known || !status.ok() || !TakeProgress(response->Header("range"), UINT64_MAX).ok()) {
    LogDebug("registry_push_restart host=", endpoint_->host, " status=", response->status);
    return Ask();
  }
  if (at_ > before) shared_->resumes.fetch_add(1, std::memory_order_relaxed);
  Continue();
}

// Completes the upload; includes the bytes if there are few.
void BlobPush::SendEnd() {
  RegistryCall::Spec spec = NewSpec("PUT");
  std::string text = location_->text;
  StrAppend(&text, text.find('?') == std::string::npos ? "?" : "&",
            "digest=", UrlEncode(blob_.digest.ToString()));
  absl::StatusOr<Url> url = Url::Parse(text);
  if (!url.ok()) return Finish(Annotate(url.status(), what_));
  spec.url = *std::move(url);
  spec.headers = {{"Content-Type", "application/octet-stream"}};
  spec.body = Bytes(at_, blob_.size);
  spec.answers = AnyOf({201, 202, 204, 404, 416});
  spec.resend_after_cut = false;
  spec.stall_timeout = kEndTimeout;
  Call(endpoint_, std::move(spec), &BlobPush::OnEnd);
}

void BlobPush::OnEnd(absl::StatusOr<HttpResponse> response) {
  if (!response.ok()) {
    if (!EndedMidway(response.status())) return Finish(response.status());
    // The blob may have been accepted regardless.
    return Again(Annotate(response.status(), what_), &BlobPush::Ask);
  }
  if (response->status == 404 || response->status == 416) {
    return Again(absl::UnavailableError(
                     StrCat(what_, ": ", endpoint_->host, " has lost the upload; try again")),
                 &BlobPush::Ask);
  }
  location_.reset();
  const absl::StatusOr<Digest> announced = Digest::Parse(response->Header("docker-content-digest"));
  if (announced.ok() && *announced != blob_.digest) {
    return Finish(absl::DataLossError(StrCat(
        what_, ": ", endpoint_->host, " claims to have stored ", announced->ToString(), " and not ",
        blob_.digest.ToString(), "; check the registry and everything in between")));
  }
  Finish(RegistryWriter::PushedBlob{sent_, false});
}

absl::Status BlobPush::TakeLocation(const HttpResponse& response) {
  const std::string header = response.Header("location");
  if (header.empty()) return absl::OkStatus();  // the location is unchanged
  const absl::StatusOr<Url> asked = Url::Parse(response.url);
  if (!asked.ok()) return Annotate(asked.status(), what_);
  absl::StatusOr<Url> location = asked->Resolve(header);
  if (!location.ok()) return Annotate(location.status(), StrCat(what_, ": place of the upload"));
  location_ = *std::move(location);
  return absl::OkStatus();
}

absl::Status BlobPush::TakeProgress(const std::string& header, uint64_t when_absent) {
  const uint64_t has = UploadedBytes(header).value_or(when_absent);
  if (has > chunk_end_) {
    return absl::DataLossError(StrCat(what_, ": ", endpoint_->host, " claims to have ", has,
                                      " bytes where ", chunk_end_,
                                      " were sent; check the registry and everything in between"));
  }
  at_ = has;
  if (at_ > best_) {
    best_ = at_;
    attempts_ = 0;
  }
  return absl::OkStatus();
}

void BlobPush::Again(absl::Status failure, void (BlobPush::*step)()) {
  if (++attempts_ >= shared_->options.max_attempts) {
    return Finish(Annotate(failure, StrCat("gave up after ", attempts_, " attempts")));
  }
  const auto delay = BackoffDelay(shared_->options.first_backoff, attempts_);
  LogDebug("registry_push_retry host=", endpoint_->host, " attempt=", attempts_,
           " delay_ms=", delay.count(), " cause=", failure.message());
  shared_->retries.fetch_add(1, std::memory_order_relaxed);
  shared_->http.After(delay, [self = shared_from_this(), step] { ((*self).*step)(); });
}

// Tells the registry to discard the upload, without waiting for the response.
void BlobPush::Abandon() {
  if (!location_) return;
  RegistryCall::Spec spec = NewSpec("DELETE");
  spec.url = std::exchange(location_, std::nullopt);
  spec.answers = [](int) { return true; };
  RegistryCall::Run(shared_, endpoint_, std::move(spec), CancelToken(),
                    [](const absl::StatusOr<HttpResponse>&) {});
}

void BlobPush::Finish(absl::StatusOr<RegistryWriter::PushedBlob> result) {
  if (done_.called()) return;
  const auto keep = shared_from_this();
  registration_.Reset();
  if (!result.ok()) Abandon();
  done_(std::move(result));
}

}  // namespace imagefs
