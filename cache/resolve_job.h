// SPDX-License-Identifier: Apache-2.0
// The work of one resolve flight: fetches an image's manifest (through an index if necessary) and
// its configuration, and checks each against the digest that names it.
#pragma once

#include <memory>
#include <string_view>

#include "base/flight.h"
#include "cache/image_types.h"
#include "cache/index_finder.h"
#include "cache/kv.h"
#include "fetch/source.h"

namespace imagefs {

using ResolveContext = FlightTable<ImageRef>::Context;

// Returns at once; finishes the flight later. `kv` and `finder` must outlive it.
void StartResolve(ResolveRequest request, std::shared_ptr<ImageSource> source,
                  const KeyValueStore& kv, IndexFinder& finder, ResolveContext context);

}  // namespace imagefs
