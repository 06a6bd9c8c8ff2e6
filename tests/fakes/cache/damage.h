// Bits that turn in a store's database.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace imagefs {

// Keys of the database in `dir`, which nobody has open, that begin with `prefix`.
std::vector<std::string> KeysOf(const std::string& dir, std::string_view prefix);
// Turns one bit of the value of `key`. False: there is no such record.
bool DamageRecord(const std::string& dir, std::string_view key);

}  // namespace imagefs
