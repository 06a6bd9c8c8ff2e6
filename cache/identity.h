// SPDX-License-Identifier: Apache-2.0
// The names under which layers and trees are shared (docs/adr/0010-identity.md). Pure.
//
// A layer whose bytes were hashed locally is named by its DiffID. A layer that is mounted before
// that is named by everything that it depends on, so that it is shared only by requests with the
// same blob, description, claimed DiffID and registry. It keeps that name for good; once it is
// proven, a layer under the DiffID exists as well.
//
// Pages of a hot pack are served before they are compared with their spans, so they are part of
// what a description says. Packs that a key signed or a configured repository has are trusted by
// everybody who trusts any index, and may be used for each layer. One found in the repository of an
// image is trusted by those who trust whoever may push to that repository: the layers of an image
// that has one are shared within its repository only. So is a layer that was found by its headers,
// since nothing binds its bytes to the blob before it is whole.
#pragma once

#include <string_view>
#include <vector>

#include "base/digest.h"
#include "cache/chain.h"

namespace imagefs {

// `diff_id`: as claimed by the image's configuration. `registry`: ImageSource::registry().
Digest UnprovenLayerId(const Digest& blob, const Digest& diff_id, const FoundIndex& found,
                       std::string_view registry);

// The same for a layer that was made by a pass over its blob, whose tar is still to be hashed.
Digest UnhashedLayerId(const Digest& blob, const Digest& diff_id, std::string_view registry);

// Not the name of a layer: a blob of which unverified bytes were wrong, so that no headers of it
// are believed again.
Digest UnverifiedBlobKey(const Digest& blob);

// Names the tree of these layers, bottom first: the ChainID if each layer is named by its DiffID,
// else a name that no list of DiffIDs gives. REQUIRES: not empty, equal sizes.
Digest ChainIdentity(const std::vector<Digest>& layer_ids, const std::vector<Digest>& diff_ids);

}  // namespace imagefs
