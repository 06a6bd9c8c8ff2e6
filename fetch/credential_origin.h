// SPDX-License-Identifier: Apache-2.0
// FindCredential (fetch/credentials.h) for those who ask where a credential is from.
#pragma once

#include <string>

#include "fetch/credentials.h"
#include "image/reference.h"

namespace imagefs {

struct CredentialOrigin {
  FoundCredential found;
  // The file, or the helper and the file that names it; "" = no credential was found.
  std::string origin;
};

// As FindCredential, which is the same without the origin. Blocks.
CredentialOrigin FindCredentialOrigin(const Reference& reference, const CredentialOptions& options);

}  // namespace imagefs
