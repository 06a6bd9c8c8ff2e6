// SPDX-License-Identifier: Apache-2.0
// The tag under which the indexes of an image are published (docs/formats/published.md). Pure.
#pragma once

#include <string>

#include "base/digest.h"
#include "base/text.h"

namespace imagefs {

// `manifest`: of the image.
inline std::string IndexTagOf(const Digest& manifest) {
  return StrCat("sha256-", manifest.hex(), ".imagefs");
}

}  // namespace imagefs
