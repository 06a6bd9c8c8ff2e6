// SPDX-License-Identifier: Apache-2.0
#include "fetch/node_credentials.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "base/text.h"

namespace imagefs {
namespace {

bool Same(const Credential& a, const Credential& b) { return a.Fingerprint() == b.Fingerprint(); }

// Numbers and texts, each text after its size, as in the memory of a process of the same machine.
class Writer {
 public:
  explicit Writer(char* out) : out_(out) {}
  void Number(uint32_t number) {
    std::memcpy(out_, &number, sizeof(number));
    out_ += sizeof(number);
  }
  void Text(std::string_view text) {
    Number(static_cast<uint32_t>(text.size()));
    if (!text.empty()) std::memcpy(out_, text.data(), text.size());
    out_ += text.size();
  }

 private:
  char* out_;
};

class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  bool AtEnd() const { return in_.empty() || failed_; }
  bool failed() const { return failed_; }
  uint32_t Number() {
    uint32_t number = 0;
    failed_ |= in_.size() < sizeof(number);
    if (failed_) return 0;
    std::memcpy(&number, in_.data(), sizeof(number));
    in_.remove_prefix(sizeof(number));
    return number;
  }
  std::string_view Text() {
    const uint32_t size = Number();
    failed_ |= in_.size() < size;
    if (failed_) return "";
    const std::string_view text = in_.substr(0, size);
    in_.remove_prefix(size);
    return text;
  }

 private:
  std::string_view in_;
  bool failed_ = false;
};

size_t SavedSize(const std::string& key, const std::string& id,
                 const std::vector<Credential>& credentials) {
  constexpr size_t kNumber = sizeof(uint32_t);
  size_t size = 3 * kNumber + key.size() + id.size();
  for (const Credential& one : credentials) {
    size += 4 * kNumber + one.username.size() + one.password.size() + one.identity_token.size() +
            one.registry_token.size();
  }
  return size;
}

// Returns the first one that is not `refused`; empty if there is none.
Credential FirstOther(std::vector<Credential> candidates, const Credential* refused) {
  for (Credential& one : candidates) {
    if (refused == nullptr || !Same(one, *refused)) return std::move(one);
  }
  return Credential();
}

}  // namespace

std::shared_ptr<NodeCredentials> NodeCredentials::Create(Options options) {
  return std::shared_ptr<NodeCredentials>(new NodeCredentials(std::move(options)));
}

NodeCredentials::NodeCredentials(Options options)
    : options_(std::move(options)),
      kubelet_(options_.kubelet.config.empty()
                   ? nullptr
                   : std::make_unique<KubeletProviders>(options_.kubelet)) {}

SourceFactory::Access NodeCredentials::AccessFor(const Reference& reference) {
  SourceFactory::Access access;
  access.credential = Find(reference, nullptr, &access.credential_trouble);
  access.refresh = RefreshFor(reference);
  return access;
}

SourceFactory::Access NodeCredentials::QuickAccessFor(const Reference& reference) {
  SourceFactory::Access access;
  if (std::vector<Credential> remembered = Remembered(reference); !remembered.empty()) {
    access.credential = std::move(remembered.front());
  } else {
    access.credential = InFiles(reference, &access.credential_trouble);
  }
  access.refresh = RefreshFor(reference);
  return access;
}

CredentialRefresh NodeCredentials::RefreshFor(const Reference& reference) {
  return RefreshBy(&NodeCredentials::Find, reference);
}

CredentialRefresh NodeCredentials::RefreshBy(Finder find, const Reference& reference) {
  // Weak: a source may briefly outlive this object.
  return [weak = weak_from_this(), find,
          reference](const Credential& refused) -> absl::StatusOr<Credential> {
    const auto self = weak.lock();
    return self == nullptr ? Credential() : (self.get()->*find)(reference, &refused, nullptr);
  };
}

SourceFactory::Access NodeCredentials::OwnAccessFor(const Reference& reference) {
  SourceFactory::Access access;
  access.credential = FindOwn(reference, nullptr, &access.credential_trouble);
  access.refresh = RefreshBy(&NodeCredentials::FindOwn, reference);
  return access;
}

Credential NodeCredentials::InFiles(const Reference& reference, std::string* trouble) const {
  FoundCredential found = FindCredential(reference, options_.files);
  if (!found.trouble.empty()) LogWarning("credentials_unusable cause=", found.trouble);
  if (trouble != nullptr) *trouble = std::move(found.trouble);
  return std::move(found.credential);
}

Credential NodeCredentials::FindOwn(const Reference& reference, const Credential* refused,
                                    std::string* trouble) {
  if (reference.transport != Reference::Transport::kRegistry) return Credential();
  Credential found;
  if (kubelet_ != nullptr) found = FirstOther(kubelet_->Find(reference, refused), refused);
  if (found.empty()) found = FirstOther({InFiles(reference, trouble)}, refused);
  return found;
}

Credential NodeCredentials::Find(const Reference& reference, const Credential* refused,
                                 std::string* trouble) {
  if (reference.transport != Reference::Transport::kRegistry) return Credential();
  if (refused != nullptr) Drop(reference, *refused);
  Credential found = FirstOther(Remembered(reference), refused);
  if (found.empty()) found = FindOwn(reference, refused, trouble);
  if (refused != nullptr) {
    absl::MutexLock lock(&mu_);
    ++renewals_;
    if (!found.empty()) ++renewed_;
  }
  return found;
}

std::list<NodeCredentials::Pulled>::iterator NodeCredentials::FindLocked(const std::string& key) {
  return std::find_if(pulled_.begin(), pulled_.end(),
                      [&](const Pulled& pulled) { return pulled.key == key; });
}

std::vector<Credential> NodeCredentials::Remembered(const Reference& reference) {
  std::vector<Credential> out;
  const std::string key = KeyOf(reference);
  absl::MutexLock lock(&mu_);
  const auto exact = FindLocked(key);
  if (exact != pulled_.end()) {
    out = exact->credentials;
    pulled_.splice(pulled_.begin(), pulled_, exact);
  }
  for (const Pulled& other : pulled_) {
    if (other.key == key || other.reference.host != reference.host ||
        other.reference.repository != reference.repository) {
      continue;
    }
    out.insert(out.end(), other.credentials.begin(), other.credentials.end());
  }
  return out;
}

// A credential that one image of a repository was refused is useless for the others.
void NodeCredentials::Drop(const Reference& reference, const Credential& refused) {
  absl::MutexLock lock(&mu_);
  for (auto it = pulled_.begin(); it != pulled_.end();) {
    if (it->reference.host == reference.host && it->reference.repository == reference.repository) {
      std::erase_if(it->credentials, [&](const Credential& one) { return Same(one, refused); });
    }
    it = it->credentials.empty() ? pulled_.erase(it) : std::next(it);
  }
  SaveLocked();
}

void NodeCredentials::Remember(const Reference& image, Credential credential) {
  if (credential.empty()) return;
  std::string key = KeyOf(image);
  absl::MutexLock lock(&mu_);
  const auto found = FindLocked(key);
  if (found == pulled_.end()) {
    pulled_.push_front({image, std::move(key), "", {}});
    if (pulled_.size() > kMaxReferences) pulled_.pop_back();
  } else {
    pulled_.splice(pulled_.begin(), pulled_, found);
  }
  std::vector<Credential>& all = pulled_.front().credentials;
  std::erase_if(all, [&](const Credential& one) { return Same(one, credential); });
  all.insert(all.begin(), std::move(credential));
  if (all.size() > kMaxPerReference) all.pop_back();
  SaveLocked();
}

void NodeCredentials::TakeBack(const Reference& image, const Credential& credential) {
  absl::MutexLock lock(&mu_);
  const auto found = FindLocked(KeyOf(image));
  if (found == pulled_.end()) return;
  std::erase_if(found->credentials, [&](const Credential& one) { return Same(one, credential); });
  if (found->credentials.empty()) pulled_.erase(found);
  SaveLocked();
}

void NodeCredentials::RememberId(const Reference& image, std::string_view id) {
  absl::MutexLock lock(&mu_);
  const auto found = FindLocked(KeyOf(image));
  if (found == pulled_.end()) return;
  found->id = std::string(id);
  SaveLocked();
}

void NodeCredentials::Forget(std::string_view image) {
  const absl::StatusOr<Reference> reference = Reference::Parse(image);
  const std::string key = reference.ok() ? KeyOf(*reference) : "";
  absl::MutexLock lock(&mu_);
  pulled_.remove_if([&](const Pulled& pulled) {
    return (!key.empty() && pulled.key == key) || (!pulled.id.empty() && pulled.id == image);
  });
  SaveLocked();
}

void NodeCredentials::KeepIn(std::unique_ptr<KeptMemory> memory) {
  const Secret saved = memory->Read();
  absl::MutexLock lock(&mu_);
  memory_ = std::move(memory);
  Reader reader(saved.view());
  while (!reader.AtEnd() && pulled_.size() < kMaxReferences) {
    const absl::StatusOr<Reference> reference = Reference::Parse(reader.Text());
    Pulled pulled;
    pulled.id = std::string(reader.Text());
    const uint32_t count = reader.Number();
    for (uint32_t i = 0; i < count && !reader.failed(); ++i) {
      Credential one;
      one.username = std::string(reader.Text());
      one.password = reader.Text();
      one.identity_token = reader.Text();
      one.registry_token = reader.Text();
      if (pulled.credentials.size() < kMaxPerReference)
        pulled.credentials.push_back(std::move(one));
    }
    if (reader.failed()) {
      LogWarning("credentials_not_restored cause=they were kept in another format");
      break;
    }
    if (!reference.ok() || pulled.credentials.empty()) continue;
    pulled.reference = *reference;
    pulled.key = KeyOf(*reference);
    pulled_.push_back(std::move(pulled));
  }
}

void NodeCredentials::SaveLocked() {
  if (memory_ == nullptr) return;
  size_t size = 0, fit = 0;
  for (const Pulled& pulled : pulled_) {
    const size_t more = SavedSize(pulled.key, pulled.id, pulled.credentials);
    if (size + more > memory_->most_bytes()) break;
    size += more;
    ++fit;
  }
  SecretBuffer buffer(size);
  Writer writer(buffer.data());
  for (const Pulled& pulled : pulled_) {
    if (fit-- == 0) break;
    writer.Text(pulled.key);
    writer.Text(pulled.id);
    writer.Number(static_cast<uint32_t>(pulled.credentials.size()));
    for (const Credential& one : pulled.credentials) {
      writer.Text(one.username);
      writer.Text(one.password.view());
      writer.Text(one.identity_token.view());
      writer.Text(one.registry_token.view());
    }
  }
  memory_->Write(buffer.view());
}

NodeCredentials::Counters NodeCredentials::counters() const {
  Counters counters;
  if (kubelet_ != nullptr) counters.plugin_runs = kubelet_->runs();
  absl::MutexLock lock(&mu_);
  counters.remembered = pulled_.size();
  counters.renewals = renewals_;
  counters.renewed = renewed_;
  return counters;
}

}  // namespace imagefs
