// SPDX-License-Identifier: Apache-2.0
#include "cmd/client_session.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <utility>

#include "base/failure.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cmd/config.h"
#include "cmd/list_filter.h"
#include "cmd/options.h"
#include "cmd/print.h"
#include "cmd/progress.h"
#include "fetch/hosts.h"
#include "fetch/proxy_choice.h"

namespace imagefs {
namespace {

using control::v1::ImageRequest;
using control::v1::MountEvent;
using control::v1::MountResult;
using Clock = std::chrono::steady_clock;

}  // namespace

absl::StatusOr<std::string> ClientSession::ReferenceOfDigest(const std::string& name) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<DaemonClient> client, Connect(/*start=*/true));
  control::v1::ListImagesReply images;
  IMAGEFS_RETURN_IF_ERROR(client->ListImages(/*all=*/false, &images));
  std::string found;
  for (const control::v1::Image& image : images.images()) {
    if (!DigestMatches(image.manifest_digest(), name) || image.reference() == found) continue;
    if (!found.empty()) {
      return absl::InvalidArgumentError(StrCat(name, " is the digest of ", found, " and of ",
                                               image.reference(), "; name one of them"));
    }
    found = image.reference();
  }
  return found;
}

absl::StatusOr<Reference> ClientSession::ParseReference(const std::string& text) {
  std::string full = text;
  if (IsDigestName(text)) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string found, ReferenceOfDigest(text));
    if (!found.empty()) return Reference::Parse(found);
  }
  if (IsShortName(text)) {
    IMAGEFS_ASSIGN_OR_RETURN(const Config config, LoadConfig(global_.config));
    IMAGEFS_ASSIGN_OR_RETURN(full,
                             CompleteShortName(text, config.short_names, config.HostsOptions()));
  }
  IMAGEFS_ASSIGN_OR_RETURN(Reference reference, Reference::Parse(full));
  if (reference.transport == Reference::Transport::kRegistry) return reference;
  std::string directory = "/";
  if (!reference.path.starts_with('/')) {
    IMAGEFS_ASSIGN_OR_RETURN(directory, AbsolutePath("."));
  }
  reference.MakeAbsolute(directory);
  return reference;
}

absl::Status ClientSession::AddReferences(const std::vector<std::string>& references,
                                          google::protobuf::RepeatedPtrField<std::string>* out) {
  for (const std::string& text : references) {
    IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, ParseReference(text));
    *out->Add() = reference.ToString();
  }
  return absl::OkStatus();
}

DaemonClient::Options ClientSession::ClientOptions(bool start) {
  DaemonClient::Options options;
  options.paths = paths_;
  options.start = start;
  options.log_level = global_.log_level;
  options.ca_file = global_.ca_file;
  options.config = global_.config;
  options.say = [this](std::string_view line) { out_.Note(StrCat("imagefs: ", line, "\n")); };
  return options;
}

absl::StatusOr<std::unique_ptr<DaemonClient>> ClientSession::Connect(bool start) {
  return DaemonClient::Connect(ClientOptions(start), interrupts_);
}

absl::StatusOr<std::unique_ptr<DaemonClient>> ClientSession::ConnectToAny(
    std::chrono::seconds patience) {
  DaemonClient::Options options = ClientOptions(/*start=*/false);
  options.same_settings = false;
  options.patience = patience;
  return DaemonClient::Connect(std::move(options), interrupts_);
}

void ClientSession::SetTimeout(int seconds) {
  timeout_seconds_ = seconds;
  interrupts_.StopAfter(std::chrono::seconds(seconds),
                        [this] { return out_.Finish(out_.Fail(TimedOut())); });
}

absl::Status ClientSession::TimedOut() const {
  return WithKind(
      absl::DeadlineExceededError(StrCat("not done after ", timeout_seconds_, " s (--timeout)",
                                         trouble_.empty() ? "" : StrCat(": ", trouble_),
                                         "; run this again, since what was fetched is kept")),
      FailureKind::kTimeout);
}

int ClientSession::Finish(const absl::Status& status, std::string_view object) {
  if (status.ok()) return 0;
  if (interrupts_.expired()) return out_.Fail(TimedOut(), object);
  if (!interrupts_.interrupted()) return out_.Fail(status, object);
  // Who interrupted it needs no line that says so.
  constexpr FailureKind kKind = FailureKind::kInterrupted;
  if (global_.json) out_.Print(ErrorJson(WithKind(absl::CancelledError("interrupted"), kKind)));
  return ExitStatusOf(kKind);
}

absl::StatusOr<ImageRequest> ClientSession::MakeImageRequest(const std::string& text,
                                                             const ImageOptions& options) {
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, ParseReference(text));
  ImageRequest request;
  request.set_reference(reference.ToString());
  request.set_platform(options.platform);
  request.set_plain_http(options.plain_http);
  request.set_skip_tls_verify(options.skip_tls_verify);
  request.set_pull_policy(options.pull == "always"  ? ImageRequest::ALWAYS
                          : options.pull == "never" ? ImageRequest::NEVER
                                                    : ImageRequest::MISSING);
  if (!IsMachineRoot()) {
    const ProxySettings proxies = ProxySettings::FromEnvironment();
    ImageRequest::Proxies* out = request.mutable_proxies();
    out->set_http(proxies.http.url);
    out->set_http_variable(proxies.http.variable);
    out->set_https(proxies.https.url);
    out->set_https_variable(proxies.https.variable);
    out->set_exceptions(proxies.exceptions);
  }
  if (reference.transport == Reference::Transport::kRegistry && options.pull != "never") {
    IMAGEFS_RETURN_IF_ERROR(AddCredential(reference, options, request.mutable_credential()));
  }
  return request;
}

absl::Status ClientSession::AddCredential(const Reference& reference, const ImageOptions& options,
                                          control::v1::Credential* out) {
  IMAGEFS_ASSIGN_OR_RETURN(CredentialOrigin all, credentials_.Find(reference, options));
  FoundCredential& found = all.found;
  const auto& credential = found.credential;
  out->set_username(credential.username);
  out->set_password(credential.password.c_str(), credential.password.size());
  out->set_identity_token(credential.identity_token.c_str(), credential.identity_token.size());
  out->set_trouble(found.trouble);
  out->set_given(!options.username.empty() || !options.auth_file.empty());
  if (!found.trouble.empty()) credential_trouble_ = std::move(found.trouble);
  return absl::OkStatus();
}

absl::StatusOr<MountResult> ClientSession::Transfer(
    absl::FunctionRef<absl::Status(const DaemonClient::OnEvent&)> call, OnPart on_part) {
  const std::string terminal = ProcessEnvironment("TERM");
  ProgressRenderer renderer(
      {.terminal = isatty(STDERR_FILENO) != 0 && !terminal.empty() && terminal != "dumb"});
  MountResult result;
  uint64_t come = 0;   // compressed bytes of this call
  bool parts = false;  // they may be on the terminal: nothing is drawn any more
  const absl::Status status = call([&](const MountEvent& event) -> absl::Status {
    trouble_ = event.progress().trouble();
    if (event.has_result()) {
      result = event.result();
    } else if (!event.has_progress()) {
      if (!std::exchange(parts, true)) out_.Note(renderer.Finish());
      return on_part(event);
    } else if (!parts) {
      come = 0;
      for (const auto& layer : event.progress().layers()) come += layer.fetched_bytes();
      // It may have been resized since the last event.
      winsize size{};
      if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
        renderer.Resize(size.ws_col, size.ws_row);
      }
      out_.Note(renderer.Update(event.progress(), Clock::now().time_since_epoch()));
    }
    return absl::OkStatus();
  });
  if (!parts) out_.Note(renderer.Finish());
  if (!status.ok() && come > 0 && interrupts_.interrupted() && !interrupts_.expired()) {
    out_.Note(StrCat("imagefs: interrupted; ", FormatBytes(come),
                     " are kept for the next attempt (imagefs prune frees them)\n"));
  }
  IMAGEFS_RETURN_IF_ERROR(status);
  if (!credential_trouble_.empty()) {
    out_.Note(StrCat("imagefs: warning: no credentials were sent: ",
                     Printable(credential_trouble_, 1000), "\n"));
  }
  return result;
}

void ClientSession::PrintResult(const MountResult& result, Clock::time_point begin) {
  const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  out_.Print(global_.json ? MountJson(result) : MountText(result, elapsed.count()));
}

}  // namespace imagefs
