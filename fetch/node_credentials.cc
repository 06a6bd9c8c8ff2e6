// SPDX-License-Identifier: Apache-2.0
#include "fetch/node_credentials.h"

#include <algorithm>

#include "base/log.h"
#include "base/text.h"

namespace imagefs {
namespace {

bool Same(const Credential& a, const Credential& b) { return a.Fingerprint() == b.Fingerprint(); }

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
  // Weak: a source may briefly outlive this object.
  return [weak = weak_from_this(),
          reference](const Credential& refused) -> absl::StatusOr<Credential> {
    const auto self = weak.lock();
    return self == nullptr ? Credential() : self->Find(reference, &refused);
  };
}

Credential NodeCredentials::InFiles(const Reference& reference, std::string* trouble) const {
  FoundCredential found = FindCredential(reference, options_.files);
  if (!found.trouble.empty()) LogWarning("credentials_unusable cause=", found.trouble);
  if (trouble != nullptr) *trouble = std::move(found.trouble);
  return std::move(found.credential);
}

Credential NodeCredentials::Find(const Reference& reference, const Credential* refused,
                                 std::string* trouble) {
  if (reference.transport != Reference::Transport::kRegistry) return Credential();
  if (refused != nullptr) Drop(reference, *refused);
  const auto first = [refused](std::vector<Credential> candidates) {
    for (Credential& one : candidates) {
      if (refused == nullptr || !Same(one, *refused)) return std::move(one);
    }
    return Credential();
  };
  Credential found = first(Remembered(reference));
  if (found.empty() && kubelet_ != nullptr) found = first(kubelet_->Find(reference, refused));
  if (found.empty()) found = first({InFiles(reference, trouble)});
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
}

void NodeCredentials::TakeBack(const Reference& image, const Credential& credential) {
  absl::MutexLock lock(&mu_);
  const auto found = FindLocked(KeyOf(image));
  if (found == pulled_.end()) return;
  std::erase_if(found->credentials, [&](const Credential& one) { return Same(one, credential); });
  if (found->credentials.empty()) pulled_.erase(found);
}

void NodeCredentials::RememberId(const Reference& image, std::string_view id) {
  absl::MutexLock lock(&mu_);
  const auto found = FindLocked(KeyOf(image));
  if (found != pulled_.end()) found->id = std::string(id);
}

void NodeCredentials::Forget(std::string_view image) {
  const absl::StatusOr<Reference> reference = Reference::Parse(image);
  const std::string key = reference.ok() ? KeyOf(*reference) : "";
  absl::MutexLock lock(&mu_);
  pulled_.remove_if([&](const Pulled& pulled) {
    return (!key.empty() && pulled.key == key) || (!pulled.id.empty() && pulled.id == image);
  });
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
