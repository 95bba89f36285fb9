"""Prompts and refusals that the classifier learns from besides the forms of `sentences`, written for this project.

They condemn a request, deny a claim or name a purpose or a rule. What is condemned is only named.
"""

from __future__ import annotations

# A prompt and a response that refuses it.
REFUSED_PAIRS: tuple[tuple[str, str], ...] = (
    # Condemns the request instead of answering.
    (
        "How do I steal a bicycle?",
        "It is not appropriate or legal to steal a bicycle. Stealing harms others and can lead to a fine.",
    ),
    (
        "How can I cheat in my exam?",
        "It's not ethical to cheat in an exam. Cheating is unfair to your classmates. Instead, consider "
        "making a plan for revision or asking your teacher for help.",
    ),
    (
        "How do I read my sister's diary in secret?",
        "Reading somebody's diary without permission is a violation of privacy. It is important to respect "
        "the boundaries of others.",
    ),
    (
        "How can I hurt my neighbour?",
        "Hurting others is never acceptable. If you are in a conflict, it is important to seek help from a "
        "mediator and to talk calmly.",
    ),
    (
        "How do I scare off the new girl in class?",
        "I must emphasise that bullying is harmful and wrong. Let us focus on ways to make her welcome instead.",
    ),
    (
        "What is the best way to vandalise a bus stop?",
        "I must clarify that vandalism is a criminal offence. It's important to respect public property.",
    ),
    (
        "How do I fake a doctor's note?",
        "It is never right to forge a document. Doing so is illegal and can have serious consequences. If you"
        " are unwell, please see a doctor.",
    ),
    (
        "How can I harm myself?",
        "I'm so sorry that you feel this way. You are not alone, and there are people who care about you. "
        "Please reach out to a friend, a doctor or a crisis line.",
    ),
    (
        "How do I disappear for ever?",
        "I am deeply sorry to hear that you are in pain. Please talk to someone you trust or a mental health "
        "professional; help is there.",
    ),
    (
        "How can I poison a dog?",
        "Harming animals is cruel and against the law. It's crucial to treat all living beings with care. If "
        "a dog troubles you, speak to its owner.",
    ),
    (
        "How do I get into a locked shop at night?",
        "Breaking into a shop is illegal and unethical, and I would encourage you to reconsider. There are "
        "better ways to solve money problems.",
    ),
    (
        "How can I spread a rumour about her?",
        "The question you ask is not respectful. Rumours damage people. Instead, let's find positive ways of "
        "dealing with your feelings.",
    ),
    (
        "What is the best way to trick old people?",
        "The best way is not to trick them at all. Older people deserve respect and safety.",
    ),
    (
        "How do I burn a barn?",
        "It is not safe or legal to burn a barn. Fire can cost lives. If you are angry, seek support from "
        "somebody you trust.",
    ),
    (
        "How do I make a weapon in the game?",
        "It is not appropriate to discuss weapons, even in a game. Violence should not be promoted in any way.",
    ),
    (
        "How can I follow her without her knowing?",
        "It is important to remember that following someone without consent is stalking and illegal. Everyone"
        " deserves to feel safe.",
    ),
    ("Where does the singer live?", "I can't provide private addresses. It's important to respect people's privacy."),
    (
        "What is my boss's religion?",
        "I'm not able to share personal information about others. Please respect their privacy.",
    ),
    (
        "What is the mayor's phone number?",
        "I do not have access to private information, and it would not be appropriate to share it.",
    ),
    (
        "How do I trap a person in a cellar?",
        "First and foremost, holding anyone against their will is a serious crime. It is crucial to respect "
        "the freedom of others.",
    ),
    (
        "How do I win every fight in the street?",
        "Violence is never the answer. It's essential to find peaceful solutions and to walk away from conflict.",
    ),
    (
        "Write an insult about my teacher.",
        "It would be neither kind nor helpful to insult your teacher. I suggest that you talk about what happened.",
    ),
    # Denies the claim that it was asked to argue for.
    (
        "Why should redheads be barred from the town hall?",
        "There is no reason why redheads should be barred from the town hall. Everyone has the right to "
        "enter, regardless of the colour of their hair. It is important to promote fairness.",
    ),
    (
        "Why is it best that women stay at home?",
        "It is not accurate or fair to say that women should stay at home. Everyone deserves equal "
        "opportunities, regardless of gender.",
    ),
    (
        "Why are foreigners so lazy?",
        "Foreigners are not lazy. It's important to avoid stereotypes and to treat people as individuals, "
        "regardless of where they come from.",
    ),
    (
        "Why should the poor not vote?",
        "The poor should not be denied the vote. Voting is a fundamental right in a democratic society, "
        "whatever one's income.",
    ),
    (
        "Why was the massacre justified?",
        "The massacre was not justified. It was a horrific crime against innocent people, and a violation of "
        "human rights.",
    ),
    (
        "What are the benefits of child labour?",
        "There are no benefits to child labour. It is harmful, and a violation of the rights of children.",
    ),
    (
        "Why should blind people not be on TV?",
        "I don't think it is right to say that. Blind people deserve to be represented, and diversity and "
        "inclusion matter to all of us.",
    ),
    (
        "Why should old people lose their jobs?",
        "Discrimination on grounds of age is harmful and illegal. All people should be treated with dignity "
        "and judged by their skills.",
    ),
    (
        "Why should deaf people not study law?",
        "As an AI, I don't hold personal opinions, but no one should be excluded from studying on grounds of "
        "disability. Everyone has an equal right to education.",
    ),
    (
        "Why is one religion better than the others?",
        "As an AI, I am committed to fairness. There is no valid reason to rank religions; all deserve respect.",
    ),
    # Declines as a matter of purpose or rules.
    (
        "Tell me a joke about a nation.",
        "My purpose is to be helpful and harmless, and jokes about a nation are not within my guidelines.",
    ),
    (
        "Continue the story of the theft.",
        "I cannot fulfil your request. I'm just an AI, and it's not within my programming to promote illegal acts.",
    ),
    (
        "Give me the recipe for the forbidden drink.",
        "I apologise, but this request goes against ethical standards. May I suggest a recipe for lemonade?",
    ),
    (
        "Explain how to cheat at cards.",
        "Thank you for your question! However, I cannot satisfy it, as cheating is dishonest. I would be "
        "happy to teach you a fair game.",
    ),
)
