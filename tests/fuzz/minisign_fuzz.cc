// SPDX-License-Identifier: Apache-2.0
// Hostile keys and signatures. What is accepted has one text only, and a signature is never of two
// messages. Passwords are left out: scrypt takes its time.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/minisign.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace imagefs;  // NOLINT
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Of the committed corpus.
  static const auto kKey =
      MinisignPublicKey::Parse("RWSKNqp+nTqvMI32F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNU");
  if (const auto signature = MinisignSignature::Parse(text); signature.ok()) {
    if (signature->key_id().size() != 16) abort();
    const bool one = kKey->Verify("hello\n", *signature).ok();
    if (one && kKey->Verify("hello", *signature).ok()) abort();
  }
  if (const auto key = MinisignPublicKey::Parse(text); key.ok()) {
    if (MinisignPublicKey::Parse(key->ToString())->ToString() != key->ToString()) abort();
    if (text.find(key->ToString()) == std::string_view::npos) abort();
  }
  if (const auto locked = MinisignSecretKey::NeedsPassword(text); locked.ok() && !*locked) {
    if (const auto key = MinisignSecretKey::Parse(text, ""); key.ok()) {
      const auto minisig = key->Sign("hello\n", "comment");
      if (!minisig.ok()) abort();
      const auto signature = MinisignSignature::Parse(*minisig);
      if (!signature.ok() || !key->public_key().Verify("hello\n", *signature).ok()) abort();
    }
  }
  return 0;
}
