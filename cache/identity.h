// The names under which layers and trees are shared (docs/adr/0010-identity.md). Pure.
//
// A layer whose bytes were hashed here is named by its DiffID. One that is shown before that is
// named by all that binds it, so that only requests with the same blob, the same description, the
// same claim and the same registry meet; it keeps that name for good, and once it is proven there
// is a layer under the DiffID as well.
#pragma once

#include <string_view>
#include <vector>

#include "base/digest.h"
#include "cache/chain.h"

namespace imagefs {

// `diff_id`: what the image's configuration claims. `registry`: ImageSource::registry().
Digest UnprovenLayerId(const Digest& blob, const Digest& diff_id, const FoundIndex& found,
                       std::string_view registry);

// Of the tree of these layers, bottom first: the ChainID when each is named by its DiffID, else a
// name that no list of DiffIDs gives. REQUIRES: not empty, equally many.
Digest ChainIdentity(const std::vector<Digest>& layer_ids, const std::vector<Digest>& diff_ids);

}  // namespace imagefs
