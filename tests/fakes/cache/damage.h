// SPDX-License-Identifier: Apache-2.0
// Flips bits in a store's database.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace imagefs {

// Returns the keys that begin with `prefix` of the database in `dir`, which must not be open.
std::vector<std::string> KeysOf(const std::string& dir, std::string_view prefix);
// Flips one bit of the value of `key`. Returns false if there is no such record.
bool DamageRecord(const std::string& dir, std::string_view key);

}  // namespace imagefs
