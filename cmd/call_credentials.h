// SPDX-License-Identifier: Apache-2.0
// The credentials with which one call of the command asks registries: those of --creds, or those
// of the file that --authfile names, or those found in the caller's own files and helpers
// (fetch/credentials.h). Nothing is stored or logged, and no message quotes a password.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/secret.h"
#include "cmd/cli.h"
#include "cmd/interrupt.h"
#include "fetch/credential_origin.h"
#include "image/reference.h"

namespace imagefs {

// Sets the user and the password from "USER[:PASSWORD]". Returns "" or what is wrong with it.
std::string ApplyCredentials(std::string_view text, ImageOptions* image);

// Returns "" or why --creds or --authfile, if given, would have no effect on these references, as
// the user wrote them. Empty references do not count.
std::string CheckCredentials(const ImageOptions& image, absl::Span<const std::string> references);

// Not thread-safe.
class CallCredentials {
 public:
  // `interrupts` must outlive this.
  explicit CallCredentials(Interrupts& interrupts) : interrupts_(interrupts) {}

  // Returns the credential for the registry of `reference`. Asks the user for the password of
  // --creds if it was left out, once. Fails if --creds would be sent to a second registry, and if
  // the file of --authfile, or the helper that it names, cannot be used; trouble with files that
  // nobody named is in the result. Blocks.
  absl::StatusOr<CredentialOrigin> Find(const Reference& reference, const ImageOptions& image);

 private:
  absl::StatusOr<Credential> Given(const Reference& reference, const ImageOptions& image);

  Interrupts& interrupts_;
  std::string host_;  // that got --creds
  Secret password_;   // as typed
};

}  // namespace imagefs
