// SPDX-License-Identifier: Apache-2.0
// The style and the scripts of the status page (cmd/status_page.h). Constants: the page's Content
// Security Policy allows these texts by their hashes and nothing else.
#pragma once

namespace imagefs {

extern const char kStatusStyle[];
extern const char kOverviewScript[];  // filters the rows of the tables
// Draws the byte maps and the waterfall from the JSON text in the element `data`.
extern const char kMountScript[];

}  // namespace imagefs
