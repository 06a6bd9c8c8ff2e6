// SPDX-License-Identifier: Apache-2.0
#include "cmd/call_credentials.h"

#include <errno.h>
#include <unistd.h>

#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "cmd/options.h"
#include "cmd/password_prompt.h"

namespace imagefs {
namespace {

constexpr size_t kMaxPasswordBytes = 64 << 10;  // some registries have tokens for passwords

// The file that the user named, as options that lead to no other.
absl::StatusOr<CredentialOptions> OnlyFrom(const std::string& auth_file) {
  CredentialOptions out;
  IMAGEFS_ASSIGN_OR_RETURN(out.auth_file, AbsolutePath(auth_file));
  if (access(out.auth_file.c_str(), R_OK) != 0) {
    return Annotate(ErrnoStatus(errno, out.auth_file), "--authfile");
  }
  return out;
}

}  // namespace

std::string ApplyCredentials(std::string_view text, ImageOptions* image) {
  const size_t colon = text.find(':');
  image->username = text.substr(0, colon);
  if (image->username.empty()) return "it has no user; write USER or USER:PASSWORD";
  if (colon == std::string_view::npos) return "";
  image->password = text.substr(colon + 1);
  return image->password.empty() ? "the password is empty; leave out the colon to be asked for it"
                                 : "";
}

std::string CheckCredentials(const ImageOptions& image, absl::Span<const std::string> references) {
  if (image.username.empty() && image.auth_file.empty()) return "";
  if (!image.username.empty() && !image.auth_file.empty()) {
    return "--creds and --authfile exclude each other";
  }
  const std::string_view option = image.auth_file.empty() ? "--creds" : "--authfile";
  if (image.pull == "never") return StrCat(option, " has no effect with --pull never");
  std::string other;
  for (const std::string& text : references) {
    if (text.empty()) continue;
    const absl::StatusOr<Reference> reference = Reference::Parse(text);
    if (!reference.ok() || reference->transport == Reference::Transport::kRegistry) return "";
    other = text;
  }
  if (other.empty()) return StrCat(option, " is for an image in a registry, and none is given");
  return StrCat(option, " is for an image in a registry, and ", PrintableName(other), " is none");
}

absl::StatusOr<Credential> CallCredentials::Given(const Reference& reference,
                                                  const ImageOptions& image) {
  if (!host_.empty() && host_ != reference.host) {
    return absl::InvalidArgumentError(
        StrCat("--creds is for one registry, and this would send it to both ", host_, " and ",
               reference.host, "; run `imagefs login` for one of them"));
  }
  host_ = reference.host;
  if (!image.password.empty()) password_ = image.password;
  if (password_.empty()) {
    if (!CanAskUser()) {
      return absl::FailedPreconditionError(
          "--creds: there is no terminal to ask for the password; run `imagefs login "
          "--password-stdin`, or write USER:PASSWORD");
    }
    absl::StatusOr<Secret> typed =
        ReadPassword(StrCat("Password of ", Printable(image.username), " at ", host_, ": "),
                     kMaxPasswordBytes, interrupts_);
    if (!typed.ok()) return Annotate(typed.status(), "password");
    if (typed->empty()) return absl::InvalidArgumentError("--creds: the password is empty");
    password_ = *std::move(typed);
  }
  Credential out;
  out.username = image.username;
  out.password = password_;
  return out;
}

absl::StatusOr<CredentialOrigin> CallCredentials::Find(const Reference& reference,
                                                       const ImageOptions& image) {
  if (!image.username.empty()) {
    CredentialOrigin out;
    IMAGEFS_ASSIGN_OR_RETURN(out.found.credential, Given(reference, image));
    out.origin = "--creds";
    return out;
  }
  if (image.auth_file.empty()) {
    return FindCredentialOrigin(reference, CredentialOptions::FromEnvironment());
  }
  IMAGEFS_ASSIGN_OR_RETURN(const CredentialOptions only, OnlyFrom(image.auth_file));
  CredentialOrigin out = FindCredentialOrigin(reference, only);
  if (out.found.trouble.empty()) return out;
  return absl::FailedPreconditionError(StrCat("--authfile: ", out.found.trouble));
}

}  // namespace imagefs
